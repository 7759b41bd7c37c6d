"""Schema of the closed settings, their ranges, and the folders that hold the options.

A range is stated once, in the annotation. Open groups are checked against the signature of the
class that they name instead (`sdqn_lab.config.plugins`).
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Lt
from omegaconf import MISSING

from sdqn_lab.checks.ranges import Count, Natural, OneOf, Positive
from sdqn_lab.envs.base import Protocol

PACKAGE = Path(__file__).resolve().parents[1]
GROUPS = (
    *("neuron", "surrogate", "norm", "encoder", "readout", "network", "env", "protocol"),
    *("algo", "budget", "tracker", "experiment", "sweep"),
)
CHOOSING = ("experiment", "sweep")
"""Groups whose files choose options of the others; they may be null."""
SIZES = "_sizes_"
"""Where an `algo` file keeps values by family and budget, for its arguments to refer to."""


@dataclass
class Env:
    """Which game, and what its family brings along."""

    _target_: str = MISSING
    id: str = MISSING
    """The game, by its emulator's own id."""
    observation_scale: Positive = MISSING
    """Networks see observations divided by this (255 for byte images, 1 for binary planes)."""
    normalize_observations: bool = False
    """Vectors alone: networks see them in units of their running deviation from their mean."""
    observation_clip: Positive = 10.0
    """Largest absolute value of a normalized observation."""
    normalize_rewards: bool = False
    """Learning sees rewards divided by the running deviation of the discounted return."""
    log_every_steps: Count = MISSING
    threads: Count | None = None
    """CPU threads that pay for networks of this family; null: as many as there are."""
    family: str = MISSING
    """Under which an algorithm finds its sizes: atari, minatar, classic, continuous or yours."""
    sizes: dict[str, dict[str, int]] = field(default_factory=dict)
    """What budget=smoke, short and full mean for this family."""


@dataclass
class Budget:
    """The size of a run."""

    steps: Count = MISSING
    """Agent steps (decisions), over all environments."""
    log_every_steps: Count = MISSING
    size: str = MISSING
    """smoke, short or full: under which an algorithm and a family find their sizes."""


@dataclass
class Config:
    """The root. `Any` stands for an open group."""

    neuron: Any = MISSING
    surrogate: Any = MISSING
    norm: Any = MISSING
    encoder: Any = MISSING
    readout: Any = MISSING
    network: Any = MISSING
    env: Env = field(default_factory=Env)
    protocol: Protocol = MISSING
    algo: Any = MISSING
    budget: Budget = field(default_factory=Budget)
    tracker: Any = MISSING
    time_window: Count = MISSING
    """T, simulation steps per decision."""
    time_window_eval: Count | None = MISSING
    """T in evaluation and play; null: time_window."""
    backend: Annotated[str, OneOf("auto", "compiled", "fused", "reference")] = MISSING
    """Forms of the same equations, equal to rounding."""
    precision: Annotated[str, OneOf("float32", "bf16")] = MISSING
    """Of the linear maps of all blocks."""
    seed: Annotated[Natural, Lt(2**63)] = MISSING
    device: str = MISSING
    """auto, cpu, cuda or cuda:N."""
    threads: Count | None = MISSING
    health: Annotated[str, OneOf("warn", "refuse", "off")] = MISSING
    objective: str = "eval/return_mean"
    """The metric that a run returns to a sweeper that searches."""
    torso: str | None = None
    """Directory of a finished run, whose torso this one begins with; null: drawn from the seed."""
    checkpoint_every_minutes: Positive = MISSING
    """Minutes between checkpoints inside an iteration; its end makes one anyway."""
    keep_state: bool = MISSING
    """Keep replay and optimizer of a finished run, so that a larger budget.steps can extend it."""
    cells: list[dict[str, Any]] = field(default_factory=list)
    """Rows of a sweep, each a few overrides that belong together; gone once it is expanded."""
    choices: dict[str, str | None] = field(default_factory=dict)
    """Which option each group took; filled in when composing."""


def folder(name: str) -> Path:
    """`conf` and `sweeps` lie in the wheel's package, or beside it in a source tree."""
    inside = PACKAGE / name
    return inside if inside.is_dir() else PACKAGE.parent / name


def conf_dir() -> Path:
    """The folder that holds `config.yaml` and the groups."""
    return folder("conf")
