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

CONTROLLER_TIMEOUT_SECONDS = 120.0
"""How long a job waits for a controller that is being restarted."""
EARLY_SECONDS = 65.0
"""SLURM may send its signal up to a minute before it is due."""
EARLY_SIGNALS = (signal.SIGUSR2, signal.SIGTERM)
"""Blocked when a job begins: one that came before it can listen would end it for good."""
LEFT_OVER_SECONDS = 300.0
"""How long a job tries cells again that left without a state of their own."""
RETRY_SECONDS = 5.0
OPEN = ("pending", "running", "preempted")
"""States of cells that a job still has to work on."""


class CellsFailedError(Exception):
    """Cells of this job did not finish; raised so that SLURM counts the job among the failed."""


class StopCondition(StopFlag):
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
        self._timed_out = False
        self._end = time.time() + limit_seconds
        self._look_up()
        self._limit_announced: bool | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Also receive what came while this program was loading."""
        with super().listening():
            signal.pthread_sigmask(signal.SIG_UNBLOCK, EARLY_SIGNALS)
            yield

    @property
    def requested(self) -> bool:
        """Whether the cells must stop now."""
        now = time.time()
        if self.signal == signal.SIGUSR2 and self._limit_announced is None:
            # USR2 does not say what it is for.
            preempted = self._look_up()
            near = self._end - now <= self._delay + EARLY_SECONDS
            self._limit_announced = near and not preempted
        if self.signal is not None and not (
            self.signal == signal.SIGUSR2 and self._limit_announced
        ):
            return True
        if not self._timed_out and now >= self._end - self._delay:
            self._look_up()  # limits can be extended
            self._timed_out = now >= self._end - self._delay
        return self._timed_out

    def _look_up(self) -> bool:
        """Ask when the job's time is over, and whether it is being preempted."""
        try:
            info = queue.job_info(self.job)
            self._end = datetime.fromisoformat(info["EndTime"]).timestamp()
        except (queue.SlurmError, KeyError, ValueError):
            return False  # what was known of the end stays
        return info.get("PreemptTime", "None") not in ("None", "Unknown")

    def cause(self) -> str:
        """Why the job stops: time limit, preemption, or cancelled (also: requeued by others)."""
        if self.signal in (None, signal.SIGUSR2):
            return "time limit" if self._timed_out else "preemption"
        # In a grace period the job still counts as running, and would end for good if it left.
        try:
            info = queue.retry(lambda: queue.job_info(self.job), CONTROLLER_TIMEOUT_SECONDS)
        except queue.SlurmError:
            return "cancelled"
        return "preemption" if info.get("JobState") == "RUNNING" else "cancelled"


class AttemptLog:
    """The starts of one job and how each ended, over its requeueings."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.starts: list[dict[str, str]] = json.loads(file.read_text()) if file.exists() else []

    def begin(self) -> None:
        """Add a start."""
        self.starts.append({"time": timestamp(), "host": socket.gethostname()})
        write_json(self._file, self.starts)

    def end(self, cause: str) -> None:
        """Write why the last start ends."""
        self.starts[-1] |= {"ended": timestamp(), "cause": cause}
        write_json(self._file, self.starts)

    def count(self, cause: str) -> int:
        """How many starts ended for that cause."""
        return sum(start.get("cause") == cause for start in self.starts)


@dataclass(frozen=True)
class CellsTask:
    """Runs cells side by side in one SLURM job; called there by submitit.

    USR2 (a preemption, or the time limit coming near) makes the cells save and leave and requeues
    the job; TERM makes them save and leave.
    """

    sweep_dir: Path
    folder: Path
    """Where the job writes down its starts."""
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
        log = AttemptLog(self.folder / f"{job}_starts.json")
        if not log.starts:  # a new job tries failed cells again, a requeued one leaves them alone
            for name in self.in_state("failed"):
                forget_failure(RunDirectory(self.sweep_dir / name))
        # Written before anything else: a start that is killed counts as one.
        log.begin()
        stop = StopCondition(job, self.timeout_min * 60.0, float(self.signal_delay_s))
        with stop.listening():
            self._work(stop)
            # Still listening: a signal in the middle of this must not kill it.
            if stop.requested and self.in_state(*OPEN):
                self._leave(stop, log)
        if left := [name for name in self.names if self.state(name) != "finished"]:
            states = ", ".join(f"{name} ({self.state(name)})" for name in left)
            raise CellsFailedError(f"{len(left)} of {len(self.names)} did not finish: {states}")

    def state(self, name: str) -> str:
        """A cell's state; a directory that is gone or damaged is no reason to fail the others."""
        try:
            return RunDirectory(self.sweep_dir / name).state or "missing"
        except (OSError, ValueError) as error:
            return str(error)

    def in_state(self, *states: str) -> list[str]:
        """The cells in any of these states."""
        return [name for name in self.names if self.state(name) in states]

    def _work(self, stop: StopCondition) -> None:
        """Run the cells; those that left for no reason of their own get more chances."""
        end = math.inf
        while todo := self.in_state(*OPEN):
            # A lock of a node that died may outlive it on a network file system for minutes.
            if end < math.inf:
                print(f"not finished, trying again: {', '.join(todo)}", flush=True)
                stop.wait(RETRY_SECONDS)
            # Equal shares of what SLURM gave this job.
            shares = slots(len(todo), visible_gpus(), None)
            if cpus := os.environ.get("SLURM_CPUS_PER_TASK"):
                own = {"SLURM_CPUS_PER_TASK": str(max(1, int(cpus) // len(todo)))}
                shares = [Slot({**share.environment, **own}, share.cpus) for share in shares]
            run_cells([self.sweep_dir / name for name in todo], shares, stop)
            if stop.requested or time.monotonic() > end:
                return
            end = min(end, time.monotonic() + LEFT_OVER_SECONDS)

    def _leave(self, stop: StopCondition, log: AttemptLog) -> None:
        """The cells have saved; see to it that the job comes back, unless it was taken away."""
        cause = stop.cause()
        log.end(cause)
        if cause == "cancelled":
            sys.exit(PREEMPTED_EXIT)
        if cause == "time limit" and log.count(cause) > self.max_num_timeout:
            error = (
                f"timed out {self.max_num_timeout + 1} times; state saved: relaunch with a larger "
                f"hydra.launcher.timeout_min (it was {self.timeout_min}) or "
                f"hydra.launcher.max_num_timeout (it was {self.max_num_timeout})"
            )
            for name in self.in_state(*OPEN):
                RunDirectory(self.sweep_dir / name).update(state="failed", error=error)
            return
        print(f"{cause}: cells have saved, requeueing", flush=True)
        requeue = ("scontrol", "requeue", stop.job)
        # A job that left before it was requeued would have ended for good.
        queue.retry(lambda: queue.slurm(*requeue), CONTROLLER_TIMEOUT_SECONDS)
        sys.exit(PREEMPTED_EXIT)
