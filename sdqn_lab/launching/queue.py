"""What SLURM says of jobs, with accounting or without it."""

import os
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, TypeVar

ENDS = frozenset(
    {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "BOOT_FAIL"}
    | {"DEADLINE", "OUT_OF_MEMORY", "REVOKED"}
)
"""States of a job that will do nothing more; in all others it may."""
PREFERENCES = ("SQUEUE_", "SACCT_", "SCANCEL_", "SBATCH_", "SLURM_TIME_FORMAT")
"""Variables of a user's environment that would change what is asked, or submitted."""
REFUSALS = ("nvalid job id", "ermission denied", "no such command", "isabled", "nvalid user")
"""Parts of answers that stay the same however often one asks."""
TIMEOUT_SECONDS = 60
T = TypeVar("T")


class SlurmError(Exception):
    """SLURM does not answer, or refuses."""


class Job(NamedTuple):
    """A job as the controller remembers it."""

    name: str
    state: str
    reason: str = ""
    """Why it waits."""

    @property
    def active(self) -> bool:
        """Whether it may still work."""
        return self.state not in ENDS


def environment() -> dict[str, str]:
    """This process's environment, less what would answer or submit something else."""
    return {k: v for k, v in os.environ.items() if not k.startswith(PREFERENCES)}


def slurm(*command: str) -> str:
    """What one of SLURM's commands prints.

    Raises:
        SlurmError: the command is not there, fails, or does not answer.
    """
    program = command[0]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT_SECONDS,
            env=environment(),
        )
    except FileNotFoundError as error:
        raise SlurmError(
            f"{program}: no such command; is this a machine of the cluster?"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise SlurmError(f"{program}: no answer within {TIMEOUT_SECONDS} s") from error
    if done.returncode != 0:
        raise SlurmError(f"{program}: {first_error(done.stderr) or done.returncode}")
    return done.stdout


def first_error(text: str) -> str:
    """The line that says what is wrong; SLURM's last one often only points to the manual."""
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return next((line for line in lines if "error:" in line), lines[0] if lines else "")


def retry(ask: Callable[[], T], timeout_seconds: float) -> T:
    """Ask SLURM again and again, while a controller is being restarted.

    Raises:
        SlurmError: a refusal that will not change, or the last error when the time is over.
    """
    end = time.monotonic() + timeout_seconds
    while True:
        try:
            return ask()
        except SlurmError as error:
            # A controller that goes or comes says all kinds of things, so refusals are listed.
            if any(part in str(error) for part in REFUSALS) or time.monotonic() > end:
                raise
            time.sleep(2.0)


def jobs(names: Iterable[str]) -> dict[str, Job]:
    """All jobs of these names that the controller remembers, the tasks of arrays one by one.

    Args:
        names: names of jobs.

    Returns:
        Job id (`12`, or `12_3` for a task of an array) -> job; jobs that ended are in it for as
        long as the controller keeps them.

    Raises:
        SlurmError: SLURM does not answer.
    """
    # Also those that ended: else a lost job would look like a missing answer.
    wanted = f"--name={','.join(names)}"
    answer = slurm("squeue", "-a", "-h", "-r", "-t", "all", wanted, "-o", "%i|%T|%r|%j")
    fields = [line.split("|", 3) for line in answer.splitlines() if line]
    if odd := [line for line in fields if len(line) != 4]:
        raise SlurmError(f"squeue: cannot make sense of {'|'.join(odd[0])}")
    return {job: Job(name, state, reason) for job, state, reason, name in fields}


def active_jobs(names: Mapping[str, str]) -> list[str]:
    """Those of some jobs that may still work.

    Args:
        names: job id -> name of the job.

    Raises:
        SlurmError: SLURM does not answer.
    """
    found = jobs(names.values()) if names else {}
    # A controller that lost its state counts from 1 again: an id alone proves nothing.
    same = {job for job, name in names.items() if job in found and found[job].name == name}
    return [job for job in names if job in same and found[job].active]


def final_states(ids: Iterable[str]) -> dict[str, str]:
    """How jobs ended, from the accounting; empty where the cluster has none.

    Returns:
        Job id -> state, e.g. `OUT_OF_MEMORY`, `NODE_FAIL`, `CANCELLED by 0`.
    """
    wanted = ",".join(ids)
    if not wanted:
        return {}
    # Many clusters have no accounting, and some an accounting that is down for hours.
    try:
        lines = slurm("sacct", "-X", "-n", "-P", "-j", wanted, "-o", "JobID,State")
    except SlurmError:
        return {}
    return dict(line.split("|", 1) for line in lines.splitlines() if "|" in line)


def job_info(job: str) -> dict[str, str]:
    """`scontrol show job`: key -> value of one job.

    Raises:
        SlurmError: SLURM does not answer, or has forgotten the job.
    """
    fields = slurm("scontrol", "-o", "show", "job", job).split()
    return dict(field.split("=", 1) for field in fields if "=" in field)


def max_array_size() -> int:
    """How many jobs an array may have.

    Raises:
        SlurmError: SLURM does not answer.
    """
    for line in slurm("scontrol", "show", "config").splitlines():
        if line.startswith("MaxArraySize"):
            return max(1, int(line.partition("=")[2]))
    return 1
