"""Sweeps for tests: made-up ones on disk, and real ones of the smallest cells there are."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import TextIOWrapper
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import psutil
import pytest

from sdqn_lab import run
from sdqn_lab.launching import processes
from sdqn_lab.launching.ledger import Entry, Ledger, Submission
from sdqn_lab.runs.directory import RunDirectory
from sdqn_lab.runs.metrics import read_metrics, reproducible

TINY = ["env=cartpole", "tracker=none", "network.hidden=8", "time_window=1", "threads=1"]
TINY += ["device=cpu", "algo.num_envs=2", "algo.iteration_steps=1000", "algo.batch_size=4"]
TINY += ["algo.replay_start_steps=40", "algo.replay_capacity_steps=500", "budget.steps=200"]
TINY += ["budget.log_every_steps=200", "protocol.eval_episodes=1"]
KEPT = [*TINY, "keep_state=true", "algo.iteration_steps=100", "algo.replay_capacity_steps=100"]
KEPT += ["budget.log_every_steps=50"]
"""A run that can go on when it is finished; two checkpoints."""
LONG = [*TINY, "budget.steps=2000"]
"""Seconds: long enough to be hit in the middle."""
FINISHES = """echo '{"state": "finished"}' > "$4/status.json" """
"""A cell that is done at once; see `let_cells_do`."""
GONE = {"pid": 1, "process_start": 0.0}
"""No process on this machine: the first one began later."""


def submission(cells: list[str], **changes: Any) -> Submission:
    """A local start of cells by this process; keywords say otherwise."""
    process = psutil.Process()
    facts = {
        "launcher": "local",
        "settings": {"processes": None, "gpus": None},
        "command": ["run"],
        "time": "2026-01-01T00:00:00Z",
        "host": socket.gethostname(),
        "pid": process.pid,
        "process_start": process.create_time(),
        "code": {"git_sha": None, "git_dirty": None, "code": "0123456789abcdef"},
        "cells": cells,
    }
    return Submission(**{**facts, **changes})


def attempt(**changes: Any) -> dict[str, Any]:
    """A start of a cell by this process; keywords say otherwise."""
    process = psutil.Process()
    facts = {"host": socket.gethostname(), "pid": process.pid, "started": "2025-12-31T00:00:00Z"}
    return {**facts, "process_start": process.create_time(), **changes}


def made_up(sweep_dir: Path, states: dict[str, str | None], **changes: Any) -> Ledger:
    """A sweep whose cells are in these states; None has no directory.

    Keywords change the submission.
    """
    sweep_dir.mkdir()
    ledger = Ledger(submissions=[submission(**{"cells": list(states), **changes})])
    for seed, (name, state) in enumerate(states.items()):
        ledger.cells[name] = Entry(overrides=["env=pong"], game="pong", seed=seed, steps=1000)
        if state is not None:
            cell(sweep_dir / name, state)
    ledger.write(sweep_dir)
    return ledger


def cell(path: Path, state: str, **status: Any) -> RunDirectory:
    """A cell that claims a state; one at work, or that failed, was started once."""
    path.mkdir()
    (path / "config.yaml").write_text("device: cpu\nthreads: 1\n")
    attempts = [] if state == "pending" else [attempt()]
    error = "Traceback\n  here\nValueError: no" if state == "failed" else None
    RunDirectory(path).update(**{"state": state, "attempts": attempts, "error": error, **status})
    return RunDirectory(path)


def let_cells_do(body: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a few lines of shell stand in for cells; `$4` is a cell's directory."""
    file = folder / "program"
    becoming = f'[ "$1" = -I ] && exec {sys.executable} "$@"'  # what precedes a cell
    file.write_text(f"#!/bin/sh\n{becoming}\n{body}\n")
    file.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(file))


class CellHere:
    """What `subprocess.Popen` gives to a launcher, of a cell that ran in this process."""

    def __init__(self, command: list[str], stdout: BinaryIO, **_: Any) -> None:
        _, _, arguments = " ".join(command).partition(" -m sdqn_lab.run ")
        said = TextIOWrapper(stdout, write_through=True)
        with redirect_stdout(said), redirect_stderr(said):
            self._code = run.main(arguments.split(" "))
        said.detach()

    def poll(self) -> int:
        return self._code

    wait = poll


@contextmanager
def cells_here() -> Iterator[None]:
    """Let launchers on this machine run cells in this process: a new one loads torch for seconds.

    For tests of what comes before and after cells; how a process ends is `test_local`'s.
    """
    with pytest.MonkeyPatch.context() as patch:
        own = SimpleNamespace(**{**vars(subprocess), "Popen": CellHere})
        patch.setattr(processes, "subprocess", own)
        yield


def states(sweep_dir: Path) -> list[str | None]:
    return [RunDirectory(path).state for path in cells(sweep_dir)]


def cells(sweep_dir: Path) -> list[Path]:
    return sorted(path for path in sweep_dir.iterdir() if path.is_dir())


def numbers(sweep_dir: Path) -> dict[str, list[dict[str, Any]]]:
    """Every record of every cell, without the clock's."""
    return {path.name: records(path) for path in cells(sweep_dir)}


def records(cell: Path) -> list[dict[str, Any]]:
    """A cell's metrics without what depends on the clock."""
    return list(map(reproducible, read_metrics(cell / "metrics.jsonl")))


def stamps(sweep_dir: Path) -> dict[Path, tuple[int, bytes]]:
    """What tells whether a file was touched."""
    files = [path for path in sweep_dir.rglob("*") if path.is_file()]
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def start(module: str, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", f"sdqn_lab.{module}", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )


def wait_until(holds: Callable[[], bool], what: str, seconds: float = 240.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"waited in vain: {what}"
        time.sleep(0.05)
