"""sdqn_lab: a laboratory for spiking deep Q-networks."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from sdqn_lab.watching.player import Player

__version__ = "0.1.0"

# Read when torch is loaded. Threads that spin while they wait slow a shared machine down tenfold:
# two runs on two cores spend their time waiting for each other's descheduled threads.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def load(
    run_dir: "Path | str", which: Literal["last", "best"] = "last", trust: bool = False
) -> "Player":
    """Load the agent of a run directory; see `sdqn_lab.watching.player.load`."""
    from sdqn_lab.watching.player import load as load_player

    return load_player(run_dir, which, trust)
