"""A run directory: its paths, its lock, its files, and where they come from."""
