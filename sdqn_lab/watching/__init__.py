"""A trained agent plays: its episodes, what its neurons do meanwhile, and films of both."""
