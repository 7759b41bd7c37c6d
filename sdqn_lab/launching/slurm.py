"""The cells of a sweep on a SLURM cluster, as arrays of jobs, through submitit."""

import os
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import OmegaConf
from rich.console import Console

from sdqn_lab.launching import queue
from sdqn_lab.launching.ledger import Ledger, Submission
from sdqn_lab.launching.local import CellLauncher
from sdqn_lab.launching.observe import Observation, observe, unfinished
from sdqn_lab.launching.table import out, watching
from sdqn_lab.launching.task import EARLY_SIGNALS, CellsTask
from sdqn_lab.runs.stopping import PREEMPTED_EXIT, STOP_SIGNALS, StopFlag

JOBS = ".slurm"
"""What submitit writes lies here, a fresh folder a submission, for job ids may recur."""
RESERVED = frozenset({"job-name", "array", "signal", "output", "error", "dependency", "time"})
"""Options of sbatch that are the launcher's own."""
DOUBT_SECONDS = 60.0
"""So long a network file system may hide what happened on a node, and a queue that a job of it was
requeued."""
T = TypeVar("T")


class SlurmLauncher(CellLauncher):
    """One array of jobs for the cells that are not finished; several where one would be too large.

    Args:
        partition: see sbatch; None takes the cluster's default, as with all that may be None.
        account: see sbatch.
        qos: see sbatch.
        constraint: see sbatch.
        exclude: nodes to avoid.
        gres: generic resources, e.g. ``gpu:h200:1``.
        gpus_per_node: GPUs of a job.
        cpus_per_task: CPUs of a job, shared out among its cells, >= 1.
        mem_gb: memory of a job, in GiB.
        timeout_min: time limit of a job, in minutes, >= 1.
        signal_delay_s: seconds before the limit at which cells save and leave; less than half
            of it.
        max_num_timeout: how often a job that ran into its limit is requeued, >= 0.
        array_parallelism: jobs of the sweep at once, >= 1.
        cells_per_task: cells side by side in one job, >= 1.
        setup: shell commands before a job starts, e.g. ``[module load cuda]``.
        additional_parameters: further options of sbatch, name -> value.
        wait: stay and show the sweep until it ends; False: return once it is submitted.
        poll_seconds: seconds between looks at a sweep that is waited for, > 0.
        dry_run: only say what would run; read by the command before anything starts.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        partition: str | None = None,
        account: str | None = None,
        qos: str | None = None,
        constraint: str | None = None,
        exclude: str | None = None,
        gres: str | None = None,
        gpus_per_node: int | None = None,
        cpus_per_task: int = 2,
        mem_gb: float | None = None,
        timeout_min: int = 240,
        signal_delay_s: int = 120,
        max_num_timeout: int = 100,
        array_parallelism: int = 256,
        cells_per_task: int = 1,
        setup: list[str] | None = None,
        additional_parameters: dict[str, Any] | None = None,
        wait: bool = True,
        poll_seconds: float = 10.0,
        dry_run: bool = False,
    ) -> None:
        given = {key: value for key, value in locals().items() if key not in ("self", "__class__")}
        self.settings = {key: plain(value) for key, value in given.items()}
        for key in ("cpus_per_task", "timeout_min", "array_parallelism", "cells_per_task"):
            if self.settings[key] < 1:
                raise ValueError(f"{key} must be >= 1, got {self.settings[key]}: write 1 or more")
        if max_num_timeout < 0:
            raise ValueError(
                f"max_num_timeout must be >= 0, got {max_num_timeout}: write 0 or more"
            )
        if taken := sorted(RESERVED & {key.replace("_", "-") for key in self.additional}):
            raise ValueError(
                f"additional_parameters must leave out {', '.join(taken)}, got "
                f"{self.additional}: write the launcher's own keys"
            )
        if poll_seconds <= 0:
            raise ValueError(f"poll_seconds must be > 0, got {poll_seconds}: write 10")
        if not 0 < signal_delay_s < 30 * timeout_min:
            half = 30 * timeout_min
            raise ValueError(
                f"signal_delay_s must lie above 0 and below half the time limit ({half} s), got "
                f"{signal_delay_s}: write {max(1, half // 2)}"
            )

    @property
    def additional(self) -> dict[str, Any]:
        """Further options of sbatch."""
        return self.settings["additional_parameters"] or {}

    def start(self, sweep_dir: Path, names: list[str]) -> None:
        """Submit the cells that are neither finished nor in the queue already.

        Raises:
            SlurmError: SLURM does not answer, or refuses.
        """
        seen = observe(sweep_dir)
        if seen.problem:
            raise queue.SlurmError(seen.problem)
        waiting = set(seen.names(("running", "queued", "requeued")))
        console = out()
        todo = [name for name in unfinished(sweep_dir, names) if name not in waiting]
        if done := len(names) - len(todo):
            console.print(f"{done} of {len(names)} cells are finished or in the queue already")
        if not todo:
            return
        submission = submit(sweep_dir, todo, self.settings)
        ids = sorted({job.partition("_")[0] for job in submission.jobs}, key=int)
        console.print(
            f"submitted {len(todo)} cells as {len(submission.jobs)} jobs: {', '.join(ids)}\n"
            f"sweep: {sweep_dir}\n"
            f"look at it with: python -m sdqn_lab.sweep status {shlex.quote(str(sweep_dir))}",
            soft_wrap=True,
        )

    def attend(self, sweep_dir: Path) -> None:
        """Show the sweep until it ends.

        Raises:
            SystemExit: with code 143, if stopped by a signal; the jobs go on.
        """
        if self.settings["wait"]:
            attend(sweep_dir, self.settings["poll_seconds"])


def plain(value: Any) -> Any:
    """Hydra hands over its own lists and dicts; the ledger takes Python's."""
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


def submit(sweep_dir: Path, names: list[str], settings: dict[str, Any]) -> Submission:
    """Submit cells and note their jobs in the ledger, array by array.

    Raises:
        SlurmError: SLURM refuses; arrays that were taken before stay, and are in the ledger.
    """
    if shutil.which("sbatch") is None:
        raise queue.SlurmError("sbatch: no such command; submit from a machine of the cluster")
    ledger = Ledger.read(sweep_dir)
    submission = ledger.submit("slurm", settings, [], sweep_dir)
    # squeue takes names as a list with commas.
    plain_name = re.sub(r"[^\w.=+-]", "_", sweep_dir.name[:48], flags=re.ASCII)
    submission.job_name = f"{plain_name}-{secrets.token_hex(3)}"
    folder = (sweep_dir / JOBS / f"{len(ledger.submissions) - 1:03d}").absolute()
    ledger.write(sweep_dir)
    groups = list(_chunks(names, settings["cells_per_task"]))
    arrays = list(_chunks(groups, queue.most_tasks()))
    lanes = min(settings["array_parallelism"], len(arrays))
    first_ids = list[str]()
    for index, array in enumerate(arrays):
        share = settings["array_parallelism"] // lanes
        share += index % lanes < settings["array_parallelism"] % lanes
        before = first_ids[index - lanes] if index >= lanes else None
        parameters = sbatch_parameters(settings, submission.job_name, share, before)
        tasks = [_task(sweep_dir, folder, group, settings) for group in array]
        with stop_signals_later():
            ids = _submit_array(folder, tasks, parameters, submission)
            submission.jobs.update(zip(ids, array, strict=True))
            submission.cells += [name for group in array for name in group]
            ledger.write(sweep_dir)
        first_ids.append(ids[0].partition("_")[0])
    return submission


@contextmanager
def stop_signals_later() -> Iterator[None]:
    """Hold stop signals back: a job that is submitted must be in the ledger."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _chunks(items: Sequence[T], size: int) -> Iterator[list[T]]:
    for begin in range(0, len(items), size):
        yield list(items[begin : begin + size])


def _task(sweep_dir: Path, folder: Path, names: list[str], settings: dict[str, Any]) -> CellsTask:
    limits = {key: settings[key] for key in ("timeout_min", "signal_delay_s", "max_num_timeout")}
    return CellsTask(sweep_dir.absolute(), folder, names, **limits)


def sbatch_parameters(
    settings: dict[str, Any], job_name: str, parallelism: int, after: str | None
) -> dict[str, Any]:
    """What submitit is told for one array.

    Args:
        settings: the launcher's.
        job_name: name of the jobs.
        parallelism: jobs of this array at once.
        after: an array that must have ended before, so that no more jobs than wanted run at once.
    """
    names = {"timeout_min": "time", "mem_gb": "mem"}
    passed = [
        *("partition", "account", "qos", "constraint", "exclude", "gres", "gpus_per_node"),
        *("cpus_per_task", "timeout_min", "signal_delay_s", "setup"),
    ]
    parameters = {names.get(key, key): settings[key] for key in passed if settings[key] is not None}
    if settings["mem_gb"] is not None:
        parameters["mem"] = f"{round(settings['mem_gb'] * 1024)}M"
    if after is not None:
        parameters["dependency"] = f"afterany:{after}"
    given = {"requeue": True, **(settings["additional_parameters"] or {})}
    extra = {key: value for key, value in given.items() if value is not False}
    return {
        **parameters,
        # srun does not take over what sbatch was told, from SLURM 22.05 on.
        "srun_args": [f"--cpus-per-task={settings['cpus_per_task']}"],
        "job_name": job_name,
        "array_parallelism": parallelism,
        "stderr_to_stdout": True,
        "additional_parameters": extra,
    }


def _submit_array(
    folder: Path, tasks: list[CellsTask], parameters: dict[str, Any], submission: Submission
) -> list[str]:
    from submitit.core.utils import FailedJobError, FailedSubmissionError
    from submitit.slurm.slurm import SlurmExecutor

    executor = SlurmExecutor(folder, python=shlex.join(python()))
    executor.update_parameters(**parameters)
    try:
        with own_environment(queue.environment()), executor.batch():
            jobs = [executor.submit(task) for task in tasks]
    except (FailedJobError, FailedSubmissionError, subprocess.SubprocessError, OSError) as error:
        _cancel_unnoted(submission)
        raise queue.SlurmError(f"sbatch: {queue.first_error(str(error)) or error}") from error
    return [str(job.job_id) for job in jobs]


def _cancel_unnoted(submission: Submission) -> None:
    """SLURM may have taken jobs of which only its answer was lost; nothing is there for them."""
    with suppress(queue.SlurmError):
        found = queue.jobs([submission.job_name or ""])
        if unnoted := [job for job in found if job not in submission.jobs]:
            queue.slurm("scancel", *unnoted)


@contextmanager
def own_environment(wanted: dict[str, str]) -> Iterator[None]:
    """Let this process have another environment for a moment."""
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(wanted)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def python() -> list[str]:
    """The words by which a job starts Python: signals wait until it can listen to them.

    Loading can take a minute from a cluster's file system, and a preemption may come at any time.
    """
    numbers = ", ".join(str(int(number)) for number in EARLY_SIGNALS)
    block = f"signal.pthread_sigmask(signal.SIG_BLOCK, [{numbers}])"
    become = "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    return [sys.executable, "-I", "-S", "-c", f"import os, signal, sys; {block}; {become}"]


def attend(sweep_dir: Path, poll_seconds: float) -> Observation:
    """Show a sweep until nothing more will happen by itself.

    That a cell is lost, or stopped, is believed when it was seen so for a minute.

    Raises:
        SystemExit: with code 143, if stopped by a signal; the jobs go on.
    """
    console = Console(stderr=True, emoji=False, markup=False, highlight=False)
    stop, doubtful = StopFlag(), dict[str, float]()
    with stop.listening(), watching(console) as watch:
        while not stop.requested:
            seen = observe(sweep_dir)
            now = time.monotonic()
            doubtful = {n: doubtful.get(n, now) for n in seen.names(["lost", "stopped"])}
            certain = all(now - since > DOUBT_SECONDS for since in doubtful.values())
            if certain:
                watch.show(seen)
            if certain and not seen.active and not seen.problem:
                return seen
            stop.wait(poll_seconds)
    console.print(
        f"no longer watching; the jobs go on: "
        f"python -m sdqn_lab.sweep status {shlex.quote(str(sweep_dir))}",
        soft_wrap=True,
    )
    raise SystemExit(PREEMPTED_EXIT)
