"""One option of four axes of sdqn_lab, outside its package."""
