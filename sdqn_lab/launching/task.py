"""What one SLURM job does: some cells, signals, time limits and its own requeueing."""

import json
import math
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sdqn_lab.launching import queue
from sdqn_lab.launching.observe import forget_failure
from sdqn_lab.launching.processes import Slot, run_cells, slots, visible_gpus
from sdqn_lab.runs.directory import RunDirectory, timestamp
from sdqn_lab.runs.files import write_json
from sdqn_lab.runs.provenance import scheduler
from sdqn_lab.runs.stopping import PREEMPTED_EXIT, StopFlag

CONTROLLER_PATIENCE_SECONDS = 120.0
"""How long a job waits for a controller that is being restarted."""
EARLY_SECONDS = 65.0
"""SLURM may send its signal up to a minute before it is due."""

EARLY_SIGNALS = (signal.SIGUSR2, signal.SIGTERM)
"""Blocked when a job begins: one that came before it can listen would end it for good."""

LEFT_OVER_SECONDS = 300.0
"""How long a job tries cells again that left without a state of their own."""
RETRY_SECONDS = 5.0


class CellsFailedError(Exception):
    """Cells of this job did not finish; raised so that SLURM counts the job among the failed."""


@dataclass(frozen=True)
class CellsTask:
    """Runs cells side by side in one SLURM job; called there by submitit.

    USR2 (a preemption, or the time limit coming near) makes the cells save and leave and requeues
    the job; TERM makes them save and leave.
    """

    sweep_dir: Path
    folder: Path
    """Where the job notes its starts."""
    names: list[str]
    timeout_min: int
    signal_delay_s: int
    max_num_timeout: int

    def __call__(self) -> None:
        """Work until the cells are finished.

        Raises:
            CellsFailedError: one of them failed, ran out of time too often, or could not be
                worked on.
            SystemExit: with code 143, if the job was asked to stop.
        """
        job = str(scheduler()["slurm_job"])
        starts = Starts(self.folder / f"{job}_starts.json")
        todo = self._todo(again=len(starts.told) > 0)
        starts.begin()
        orders = Orders(job, self.timeout_min * 60.0, float(self.signal_delay_s))
        with orders.listening():
            self._work(todo, orders)
            if orders.requested and self._states("pending", "running", "preempted"):
                self._leave(orders, starts)
        if left := [name for name in self.names if self._state(name) != "finished"]:
            told = ", ".join(f"{name} ({self._state(name)})" for name in left)
            raise CellsFailedError(f"{len(left)} of {len(self.names)} did not finish: {told}")

    def _todo(self, again: bool) -> list[str]:
        """A first start tries failed cells anew; a restart leaves them alone."""
        if not again:
            for name in self._states("failed"):
                forget_failure(RunDirectory(self.sweep_dir / name))
        return self._states("pending", "running", "preempted")

    def _work(self, todo: list[str], orders: "Orders") -> None:
        """Run the cells; those that left for no reason of their own get more chances.

        A lock of a node that died may outlive it on a network file system for minutes.
        """
        end = math.inf
        while todo:
            run_cells([self.sweep_dir / name for name in todo], self._slots(len(todo)), orders)
            todo = self._states("pending", "running", "preempted")
            if not todo or orders.requested or time.monotonic() > end:
                return
            end = min(end, time.monotonic() + LEFT_OVER_SECONDS)
            print(f"not finished, trying again: {', '.join(todo)}", flush=True)
            orders.wait(RETRY_SECONDS)

    def _state(self, name: str) -> str:
        """A cell's state; a directory that is gone or damaged is no reason to fail the others."""
        try:
            return RunDirectory(self.sweep_dir / name).state or "missing"
        except (OSError, ValueError) as error:
            return str(error)

    def _states(self, *states: str) -> list[str]:
        return [name for name in self.names if self._state(name) in states]

    def _slots(self, count: int) -> list[Slot]:
        """Equal shares of what SLURM gave this job."""
        count = max(1, count)
        shares = slots(count, visible_gpus(), None)
        given = os.environ.get("SLURM_CPUS_PER_TASK")
        if given is None:
            return shares
        cpus = {"SLURM_CPUS_PER_TASK": str(max(1, int(given) // count))}
        return [Slot({**share.environment, **cpus}, share.cpus) for share in shares]

    def _leave(self, orders: "Orders", starts: "Starts") -> None:
        """The cells have saved; see to it that the job comes back, unless it was taken away."""
        cause = orders.cause()
        starts.end(cause)
        if cause == "cancelled":
            sys.exit(PREEMPTED_EXIT)
        if cause == "time limit" and starts.count(cause) > self.max_num_timeout:
            self._give_up()
            return
        print(f"{cause}: cells have saved, requeueing", flush=True)
        queue.patiently(
            lambda: queue.slurm("scontrol", "requeue", orders.job), CONTROLLER_PATIENCE_SECONDS
        )
        sys.exit(PREEMPTED_EXIT)

    def _give_up(self) -> None:
        error = (
            f"timed out {self.max_num_timeout + 1} times; state saved: relaunch with a larger "
            f"hydra.launcher.timeout_min (it was {self.timeout_min}) or "
            f"hydra.launcher.max_num_timeout (it was {self.max_num_timeout})"
        )
        for name in self._states("pending", "running", "preempted"):
            RunDirectory(self.sweep_dir / name).update(state="failed", error=error)


class Orders(StopFlag):
    """When to stop: at once on TERM and before a preemption, before a time limit when due.

    SLURM announces a limit by USR2, up to a minute early, and perhaps to a job whose program it has
    not started yet: so the clock is watched as well.

    Args:
        job: this job's id.
        limit_seconds: its time limit.
        delay_seconds: what it needs before the limit for saving.
    """

    def __init__(self, job: str, limit_seconds: float, delay_seconds: float) -> None:
        super().__init__()
        self.job = job
        self._delay = delay_seconds
        self._end = self._ends(time.time() + limit_seconds)
        self._due: float | None = None
        self._timed_out = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Also hear what came while this program was loading."""
        with super().listening():
            signal.pthread_sigmask(signal.SIG_UNBLOCK, EARLY_SIGNALS)
            yield

    @property
    def requested(self) -> bool:
        """Whether the cells must stop now."""
        if self.signal not in (None, signal.SIGUSR2):
            return True
        now = time.time()
        if self.signal is None:
            return self._over(now)
        if self._due is None:
            self._due = self._when(now)
        return now >= self._due

    def _over(self, now: float) -> bool:
        """Whether the time is up by the clock; limits can be changed, so the end is looked up."""
        if not self._timed_out and now >= self._end - self._delay:
            self._end = self._ends(self._end)
            self._timed_out = now >= self._end - self._delay
        return self._timed_out

    def _when(self, now: float) -> float:
        """When to stop after USR2, which does not say what it is for."""
        self._end = self._ends(self._end)
        self._timed_out = not self._preempted and self._end - now <= self._delay + EARLY_SECONDS
        return self._end - self._delay if self._timed_out else now

    def _ends(self, expected: float) -> float:
        """When the job's time is over; what was expected where the controller does not say."""
        self._preempted = False
        try:
            told = queue.facts(self.job)
            end = datetime.fromisoformat(told["EndTime"]).timestamp()
        except (queue.SlurmError, KeyError, ValueError):
            return expected
        self._preempted = told.get("PreemptTime", "None") not in ("None", "Unknown")
        return end

    def cause(self) -> str:
        """Why the job stops: time limit, preemption, or cancelled (also: requeued by others)."""
        if self.signal in (None, signal.SIGUSR2):
            return "time limit" if self._timed_out else "preemption"
        # In a grace period the job still counts as running, and would end for good if it left.
        try:
            told = queue.patiently(lambda: queue.facts(self.job), CONTROLLER_PATIENCE_SECONDS)
        except queue.SlurmError:
            return "cancelled"
        return "preemption" if told.get("JobState") == "RUNNING" else "cancelled"


class Starts:
    """The starts of one job and how each ended, over its requeueings."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.told: list[dict[str, str]] = json.loads(file.read_text()) if file.exists() else []

    def begin(self) -> None:
        """Note a start."""
        self.told.append({"time": timestamp(), "host": socket.gethostname()})
        write_json(self._file, self.told)

    def end(self, cause: str) -> None:
        """Note why the last start ends."""
        self.told[-1] |= {"ended": timestamp(), "cause": cause}
        write_json(self._file, self.told)

    def count(self, cause: str) -> int:
        """How many starts ended for that cause."""
        return sum(start.get("cause") == cause for start in self.told)
