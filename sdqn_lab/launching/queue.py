"""What SLURM says of jobs, with accounting or without it."""

import getpass
import subprocess
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeVar

ACTIVE = frozenset(
    {"PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING"}
    | {"REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESIZING", "RESV_DEL_HOLD", "SPECIAL_EXIT"}
    | {"STAGE_OUT"}
)
"""States of a job that may still work; all others are ends."""
ANSWER_SECONDS = 60
T = TypeVar("T")


class SlurmError(Exception):
    """SLURM does not answer, or refuses."""


class Job(NamedTuple):
    """A job as the controller remembers it."""

    name: str
    state: str

    @property
    def active(self) -> bool:
        """Whether it may still work."""
        return self.state in ACTIVE


def slurm(*words: str) -> str:
    """What one of SLURM's commands prints.

    Raises:
        SlurmError: the command is not there, fails, or does not answer.
    """
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, check=False, timeout=ANSWER_SECONDS
        )
    except FileNotFoundError as error:
        raise SlurmError(
            f"{words[0]}: no such command; is this a machine of the cluster?"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise SlurmError(f"{words[0]}: no answer within {ANSWER_SECONDS} s") from error
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise SlurmError(f"{words[0]}: {lines[-1]}")
    return done.stdout


def patiently(ask: Callable[[], T], patience_seconds: float) -> T:
    """Ask SLURM again and again, while a controller is being restarted.

    Raises:
        SlurmError: the last one, when patience is over.
    """
    end = time.monotonic() + patience_seconds
    while True:
        try:
            return ask()
        except SlurmError:
            if time.monotonic() > end:
                raise
            time.sleep(2.0)


def jobs() -> dict[str, Job]:
    """All of this user's jobs that the controller remembers, the tasks of arrays one by one.

    Returns:
        Job id (``12``, or ``12_3`` for a task of an array) -> job; jobs that ended are in it for
        as long as the controller keeps them.

    Raises:
        SlurmError: SLURM does not answer.
    """
    lines = slurm("squeue", "-h", "-r", "-t", "all", "-u", getpass.getuser(), "-o", "%i|%j|%T")
    fields = [line.split("|") for line in lines.splitlines() if line]
    return {job: Job("|".join(name), state) for job, *name, state in fields}


def endings(ids: Iterable[str]) -> dict[str, str]:
    """How jobs ended, from the accounting; empty where the cluster has none.

    Returns:
        Job id -> state, e.g. ``OUT_OF_MEMORY``, ``NODE_FAIL``, ``CANCELLED by 0``.
    """
    wanted = ",".join(ids)
    if not wanted:
        return {}
    try:
        lines = slurm("sacct", "-X", "-n", "-P", "-j", wanted, "-o", "JobID,State")
    except SlurmError:
        return {}
    return dict(line.split("|", 1) for line in lines.splitlines() if "|" in line)


def facts(job: str) -> dict[str, str]:
    """``scontrol show job``: key -> value of one job.

    Raises:
        SlurmError: SLURM does not answer, or has forgotten the job.
    """
    words = slurm("scontrol", "-o", "show", "job", job).split()
    return dict(word.split("=", 1) for word in words if "=" in word)


def most_tasks() -> int:
    """How many tasks an array may have.

    Raises:
        SlurmError: SLURM does not answer.
    """
    for line in slurm("scontrol", "show", "config").splitlines():
        if line.startswith("MaxArraySize"):
            return max(1, int(line.partition("=")[2]))
    return 1
