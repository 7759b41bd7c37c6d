"""Spiking layers as pure functions of their input: no layer keeps a state between two calls."""
