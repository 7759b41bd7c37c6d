"""Runs to track, without the training."""

import json
import time
from collections.abc import Callable
from typing import Any

import yaml

from sdqn_lab.runs.directory import RunDirectory
from sdqn_lab.tracking.follow import follow

CONFIG = {"norm": {"eps": 1e-5}, "seed": 0, "choices": {"norm": "popnorm", "experiment": None}}
TINY = ["env=cartpole", "budget=smoke", "time_window=2", "threads=1", "health=off"]
TINY += ["budget.steps=500", "algo.iteration_steps=500", "budget.log_every_steps=100"]
TINY += ["algo.replay_start_steps=450", "network.hidden=8"]
"""Overrides of a run of a second."""
WANDB = "sdqn_lab.tracking.wandb.WandB"


def records(count: int) -> list[dict[str, Any]]:
    """Lines as a run writes them: two a step, lists and sentences among them."""
    return [_record(index) for index in range(count)]


def _record(index: int) -> dict[str, Any]:
    step = 100 * (index // 2)
    record = {"step": step, "frames": 4 * step, "wall_seconds": 0.5 * index}
    if index % 5 == 4:
        return {**record, "health/event": "hidden died"}
    if index % 2:
        return {**record, "eval/return_mean": 1.5 * index, "eval/returns": [1.0, 2.0 * index]}
    return {**record, "train/return": index / 3, "updates": index, "snn/firing_rate/fc": 0.25}


def begin(directory: RunDirectory, target: str = WANDB, **settings: Any) -> None:
    """A run's next attempt begins in a directory; `settings`: keys of its tracker."""
    directory.path.mkdir(parents=True, exist_ok=True)
    directory.update(state="pending")
    node = {"_target_": target, **settings}
    directory.config.write_text(yaml.safe_dump({**CONFIG, "tracker": node}))
    directory.begin_attempt()


def write_records(directory: RunDirectory, count: int) -> None:
    """`metrics.jsonl` with this many lines."""
    directory.metrics.write_text("".join(f"{json.dumps(line)}\n" for line in records(count)))


def attempt(
    directory: RunDirectory,
    shown: list[str],
    count: int,
    state: str = "finished",
    target: str = WANDB,
    **settings: Any,
) -> bool:
    """An attempt up to this many lines, followed by its tracker; `running`: it died."""
    begin(directory, target, **settings)
    write_records(directory, count)
    if state != "running":
        directory.end_attempt(state)
    return follow(directory, shown.append)


def wait_until(holds: Callable[[], object]) -> None:
    """For what another process is to do; a test that waits in vain ends by its own time limit."""
    while not holds():
        time.sleep(0.02)


def delivered_all(directory: RunDirectory) -> bool:
    """Whether a tracker has everything of the last attempt, its end included."""
    attempts = len(directory.status()["attempts"])
    found = directory.delivered().values()
    return any(one["attempt"] == attempts and one["exit_code"] is not None for one in found)
