"""Runs to mirror, without the training."""

import json
from pathlib import Path
from typing import Any

import yaml

from sdqn_lab.tracking.mirror import MirroredRun
from sdqn_lab.tracking.run_directory import RunDirectory

CONFIG = {"norm": {"eps": 1e-5}, "seed": 0, "choices": {"norm": "popnorm", "experiment": None}}


def records(count: int, begin: int = 0) -> list[dict[str, Any]]:
    """Lines as a run writes them: two a step, lists and sentences among them."""
    return [_record(index) for index in range(begin, count)]


def _record(index: int) -> dict[str, Any]:
    step = 100 * (index // 2)
    record = {"step": step, "frames": 4 * step, "wall_seconds": 0.5 * index}
    if index % 5 == 4:
        return {**record, "health/event": "hidden died"}
    if index % 2:
        return {**record, "eval/return_mean": 1.5 * index, "eval/returns": [1.0, 2.0 * index]}
    return {**record, "train/return": index / 3, "updates": index, "snn/firing_rate/fc": 0.25}


class Told(list[str]):
    """The lines that a person was shown."""

    @property
    def warnings(self) -> list[str]:
        return [line for line in self if "WARNING" in line]


def mirrored(directory: Path, told: Told, **changes: Any) -> MirroredRun:
    facts: dict[str, Any] = {
        "directory": directory,
        "id": "pong_seed0-1234",
        "name": "pong_seed0",
        "group": "norms",
        "attempt": 1,
        "config": CONFIG,
        "kept": [],
        "say": told.append,
    }
    directory.mkdir(exist_ok=True)
    return MirroredRun(**{**facts, **changes})


def begin(directory: RunDirectory, **tracker: Any) -> None:
    """A run's next attempt begins in a directory; ``tracker``: keys of its W&B node."""
    directory.path.mkdir(parents=True, exist_ok=True)
    directory.update(state="pending")
    node = {"_target_": "sdqn_lab.tracking.wandb.WandB", **tracker}
    directory.config.write_text(yaml.safe_dump({**CONFIG, "tracker": node}))
    directory.begin_attempt()


def write_records(directory: RunDirectory, count: int) -> None:
    """``metrics.jsonl`` with this many lines."""
    directory.metrics.write_text("".join(f"{json.dumps(line)}\n" for line in records(count)))
