"""Sweeps that finish: the ledger, the local launcher, SLURM, and what became of every cell."""
