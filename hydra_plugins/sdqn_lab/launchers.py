"""Hydra takes launchers from this namespace alone; what they do is in `sdqn_lab.launching`."""

from sdqn_lab.launching import local, slurm


class LocalLauncher(local.LocalLauncher):
    """Cells on this machine."""


class SlurmLauncher(slurm.SlurmLauncher):
    """Cells on a SLURM cluster."""
