"""Hydra's own sweeper, less a check that was made before."""

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper


class CellSweeper(BasicSweeper):
    """The product of all swept values, each of which is one cell."""

    def validate_batch_is_legal(self, batch: object) -> None:
        """Every cell was composed and validated before Hydra was let in."""
