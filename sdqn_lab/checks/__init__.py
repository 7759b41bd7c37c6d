"""Ranges of arguments, and how they are refused."""
