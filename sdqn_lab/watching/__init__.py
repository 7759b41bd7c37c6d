"""A trained agent plays: its episodes, what its neurons do meanwhile, and videos of both."""
