"""Schema of the closed settings, and the folders that hold the options."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING

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
    observation_scale: float = MISSING
    """Networks see observations divided by this (255 for byte images, 1 for binary planes)."""
    log_every_steps: int = MISSING
    threads: int | None = None
    """CPU threads that pay for networks of this family; null: as many as there are."""
    family: str = MISSING
    """Under which an algorithm finds its sizes: atari, minatar, classic, or one of your own."""
    sizes: dict[str, dict[str, int]] = field(default_factory=dict)
    """What budget=smoke, short and full mean for this family."""


@dataclass
class Protocol:
    """How the game is played and scored."""

    sticky_actions: float = MISSING
    """Probability in [0, 1) that the emulator repeats the previous action."""
    noop_max: int = MISSING
    """An episode starts with up to so many no-ops (raw frames); 0: none."""
    fire_reset: bool = MISSING
    """Press FIRE once at the start of a game that needs it."""
    life_loss_ends_bootstrap: bool = MISSING
    """A lost life has discount 0 in learning; the game itself goes on."""
    reward_clipping: bool = MISSING
    """Learning sees the sign of the reward; scores are never clipped."""
    episode_cap_frames: int = MISSING
    """Episodes are truncated after so many emulator frames."""
    full_action_space: bool = MISSING
    """All actions of the console instead of the game's minimal set."""
    difficulty_ramping: bool = MISSING
    """MinAtar: the game gets harder while it is played."""
    epsilon_eval: float = MISSING
    """Exploration in evaluation, in [0, 1]."""
    eval_episodes: int = MISSING
    """Episodes an evaluation, each in an environment of its own."""


@dataclass
class Budget:
    """The size of a run."""

    steps: int = MISSING
    """Agent steps (decisions), over all environments."""
    log_every_steps: int = MISSING
    size: str = MISSING
    """smoke, short or full: under which an algorithm and a family find their sizes."""


@dataclass
class Config:
    """The root. Open groups (``Any``) are checked against their class's signature instead."""

    neuron: Any = MISSING
    surrogate: Any = MISSING
    norm: Any = MISSING
    encoder: Any = MISSING
    readout: Any = MISSING
    network: Any = MISSING
    env: Env = field(default_factory=Env)
    protocol: Protocol = field(default_factory=Protocol)
    algo: Any = MISSING
    budget: Budget = field(default_factory=Budget)
    tracker: Any = MISSING
    time_window: int = MISSING
    """T, simulation steps per decision, >= 1."""
    time_window_eval: int | None = MISSING
    """T in evaluation and play; null: time_window."""
    backend: str = MISSING
    """auto, fused or reference: forms of the neurons' equations, equal to rounding."""
    precision: str = MISSING
    """float32, or bf16 for the linear maps of all blocks."""
    seed: int = MISSING
    """>= 0; 0 is a seed."""
    device: str = MISSING
    threads: int | None = MISSING
    health: str = MISSING
    checkpoint_every_minutes: float = MISSING
    """Minutes between checkpoints inside an iteration; its end makes one anyway."""
    keep_state: bool = MISSING
    """Keep replay and optimizer of a finished run, so that a larger budget.steps can extend it."""
    choices: dict[str, str | None] = field(default_factory=dict)
    """Which option each group took; filled in when composing."""


def folder(name: str) -> Path:
    """``conf`` and ``sweeps`` lie in the wheel's package, or beside it in a source tree."""
    inside = PACKAGE / name
    return inside if inside.is_dir() else PACKAGE.parent / name


def conf_dir() -> Path:
    """The folder that holds ``config.yaml`` and the groups."""
    return folder("conf")
