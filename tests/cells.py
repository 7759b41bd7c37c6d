"""Cells that run here, or in a process of their own that is killed at a chosen call."""

import itertools
import multiprocessing
import os
import signal
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from rich.console import Console

from sdqn_lab import config
from sdqn_lab.agents.dqn import DQN
from sdqn_lab.agents.policy_agent import PolicyAgent
from sdqn_lab.agents.pqn import PQN
from sdqn_lab.runs.directory import RunDirectory
from sdqn_lab.runs.metrics import read_metrics, reproducible
from sdqn_lab.training import checkpoint, evaluation
from sdqn_lab.training.cell import run_cell
from sdqn_lab.training.checkpoint import Checkpoint
from sdqn_lab.training.collector import Collector

POINTS = {
    "act": (Collector, "step"),
    "learn": (DQN, "update"),
    "learn from a rollout": (PQN, "update"),
    "learn a policy": (PolicyAgent, "update"),
    "evaluate": (evaluation, "Moment"),
    "save": (Checkpoint, "save"),
    "write a file": (checkpoint, "write_new"),
    "write the manifest": (checkpoint, "write_json"),
    "remove old files": (Checkpoint, "_sweep"),
}
"""What a run calls again and again, in every phase of its life."""
PATIENCE_SECONDS = 300

# A server that forks before any thread is started; it loads what every child needs once.
server = multiprocessing.get_context("forkserver")
PRELOADED = ["tests.cells", "minatar", "sdqn_lab.spiking.kernels.cpu"]
# What torch loads at the first step of an optimizer, and numba at its first kernel.
PRELOADED += ["torch._dynamo", "scipy.linalg.cython_blas", "numba.np.arraymath"]
server.set_forkserver_preload(PRELOADED)


def run(overrides: list[str], path: Path) -> int:
    return run_cell(composed(tuple(overrides)), RunDirectory(path), Console(file=StringIO()))


@cache
def composed(overrides: tuple[str, ...]) -> DictConfig:
    return config.compose(list(overrides))


def numbers(path: Path) -> list[dict[str, Any]]:
    """The records without what depends on the clock."""
    return [reproducible(record) for record in read_metrics(path / "metrics.jsonl")]


def kill_at(call: str, count: int, overrides: list[str], path: Path) -> None:
    """Begin or continue a cell, and kill it -9 as it enters a call for the count-th time."""
    cfg = composed(tuple(overrides))
    process = server.Process(target=_doomed, args=(call, count, cfg, path))
    process.start()
    process.join(PATIENCE_SECONDS)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL, f"never came to {call} number {count}"


def _doomed(call: str, count: int, cfg: DictConfig, path: Path) -> None:
    torch.use_deterministic_algorithms(True)
    (owner, name), calls = POINTS[call], itertools.count(1)
    inner = getattr(owner, name)

    def outer(*args, **more):
        if next(calls) == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return inner(*args, **more)

    setattr(owner, name, outer)
    os._exit(run_cell(cfg, RunDirectory(path), Console(file=StringIO())))
