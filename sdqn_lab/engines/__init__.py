"""Whole updates and decisions of small networks, compiled for the CPU."""
