"""What makes two cells the same, in one place: identity, and the names made of it."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from hydra.utils import get_class
from omegaconf import MISSING, DictConfig, OmegaConf, read_write

from sdqn_lab.runs.upgrade import LATER

NEUTRAL = frozenset(
    {
        "cells",
        "checkpoint_every_minutes",
        "choices",
        "device",
        "health",
        "hydra",
        "keep_state",
        "objective",
        "threads",
        "tracker",
    }
)
"""Root keys that cannot change a number: they take no part in a cell's name."""
NEUTRAL_ENV = ("family", "sizes", "threads", "log_every_steps")
"""The same of `env`: defaults that other keys refer to."""
TEMPORAL = ("time_window", "time_window_eval", "surrogate")
"""Root keys without meaning under a neuron without time, such as ReLU."""


def identity(cfg: DictConfig) -> dict[str, Any]:
    """Everything that can change a number, and nothing else.

    Cells that differ only in what their neuron ignores are one cell.
    """
    keys = [str(key) for key in cfg if key not in NEUTRAL]
    plain = OmegaConf.to_container(OmegaConf.masked_copy(cfg, keys), resolve=True)
    assert isinstance(plain, dict)
    for key in NEUTRAL_ENV:
        plain["env"].pop(key)
    if not plain["env"]["normalize_observations"]:
        plain["env"].pop("observation_clip")
    plain["budget"].pop("size")
    # Where frames lie moves no number.
    plain["algo"].pop("replay_device", None)
    # Cells made before there were such keys keep their names.
    for path, before in LATER.items():
        *group, key = path.split(".")
        node = plain[group[0]] if group else plain
        if node.get(key) == before:
            node.pop(key, None)
    # Written out or left out, it is the same cell.
    if plain["time_window_eval"] == plain["time_window"]:
        plain["time_window_eval"] = None
    if not get_class(plain["neuron"]["_target_"]).temporal:  # type: ignore[attr-defined]
        for key in TEMPORAL:
            plain.pop(key)
        # Compiled updates of a ReLU round otherwise; cells made before there were any keep names.
        if plain["backend"] == "auto":
            plain.pop("backend")
    return {str(key): _canonical(value) for key, value in plain.items()}


def without_torso(cfg: DictConfig) -> DictConfig:
    """A copy of a config for a run that has begun, whose own checkpoint holds the torso."""
    changed = cfg.copy()
    with read_write(changed):
        changed.torso = None
    return changed


def _canonical(value: Any) -> Any:
    """One form for one number: tau=2 and tau=2.0 are the same cell."""
    if isinstance(value, dict):
        return {key: _canonical(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_canonical(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def flat_identity(cfg: DictConfig) -> dict[str, Any]:
    """`identity` as one level: dotted key -> value."""

    def flatten(prefix: str, node: Any) -> Iterator[tuple[str, Any]]:
        if not isinstance(node, dict):
            yield prefix, node
            return
        for key, value in node.items():
            yield from flatten(f"{prefix}.{key}" if prefix else str(key), value)

    return dict(flatten("", identity(cfg)))


def difference(stored: DictConfig, asked: DictConfig) -> str | None:
    """The first key in which two configs are not the same cell, with both values; None if they are.

    A config that lacks keys, or has others, counts as different. Only classes that `asked` names
    are looked up.
    """
    # First, because `identity` imports the neuron's class, and a stored one may be anybody's.
    had, wanted = stored.neuron._target_, asked.neuron._target_
    if had != wanted:
        return f"neuron._target_={had}, not {wanted}"
    before, after = flat_identity(stored), flat_identity(asked)
    for key in (*after, *before):
        if before.get(key, MISSING) != after.get(key, MISSING):
            return f"{key}={before.get(key, MISSING)}, not {after.get(key, MISSING)}"
    return None


def cell_name(cfg: DictConfig, choices: dict[str, str]) -> str:
    """Readable axes, seed, and a short hash of everything that can change a number.

    For example `pong_lif_popnorm_atan_T16_seed0_1f2e3d4c`.
    """
    what = identity(cfg)
    env = choices["env"] if choices["env"] != "gymnasium" else slug(cfg.env.id)
    parts = [env, choices["neuron"], choices["norm"]]
    if "surrogate" in what:
        parts += [choices["surrogate"], f"T{cfg.time_window}"]
    return "_".join([*parts, f"seed{cfg.seed}", digest(what)])


def digest(value: object) -> str:
    """A short name of plain values."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]


def slug(text: str) -> str:
    """A text as part of a directory's name."""
    return "".join(c if c.isalnum() else "-" for c in text)
