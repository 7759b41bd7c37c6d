"""Trained networks for other tools: as graphs of NIR, norms and scales folded into the weights."""
