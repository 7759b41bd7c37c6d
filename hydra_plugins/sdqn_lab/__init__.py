"""Plug-ins for Hydra, which looks for them in this namespace."""
