"""The composition root: classes that a config names, called with plain values."""
