"""A neuron of real cells that a test can slow down and break while they run."""

import sys
import time
from pathlib import Path

from torch import Tensor

from sdqn_lab.spiking.neuron import LIF

SLOW = "slow"
"""In the folder that the command was given in: seconds of sleep for each layer's forward."""
BROKEN = "broken"
"""In a cell's directory: its training raises."""


class BrokenCellError(Exception):
    """Raised on purpose."""


class Throttled(LIF):
    """As LIF, number by number; hit by a test, it is somewhere in the middle of its run."""

    def forward(self, x_seq: Tensor) -> Tensor:
        """As LIF's, later."""
        if "--resume" in sys.argv and not x_seq.is_meta:
            _obey(Path(sys.argv[sys.argv.index("--resume") + 1]))
        return super().forward(x_seq)


def _obey(cell: Path) -> None:
    if (cell / BROKEN).exists():
        raise BrokenCellError("broken by the test")
    try:
        time.sleep(float(Path(SLOW).read_text()))
    except FileNotFoundError:
        return
