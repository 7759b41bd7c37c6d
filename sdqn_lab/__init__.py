"""sdqn_lab: a laboratory for spiking deep Q-networks."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from sdqn_lab.player import Player

__version__ = "0.1.0"


def load(run_dir: "Path | str", which: Literal["last", "best"] = "last") -> "Player":
    """Load the agent of a run directory; see ``sdqn_lab.player.load``."""
    from sdqn_lab.player import load as load_player

    return load_player(run_dir, which)
