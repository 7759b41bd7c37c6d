"""What the entry points share: consoles, arguments, exit codes, refusals on the terminal."""
