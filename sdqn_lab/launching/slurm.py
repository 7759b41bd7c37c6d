"""The cells of a sweep on a SLURM cluster, as an array of jobs, through submitit."""

import math
import os
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from sdqn_lab.checks.ranges import Count, Natural, Positive, check_arguments
from sdqn_lab.checks.refused import Refused
from sdqn_lab.commands.shell import console as new_console
from sdqn_lab.commands.shell import output
from sdqn_lab.launching import queue
from sdqn_lab.launching.ledger import Ledger, Submission
from sdqn_lab.launching.local import CellLauncher
from sdqn_lab.launching.observe import ACTIVE, Observation, observe, unfinished
from sdqn_lab.launching.table import watching
from sdqn_lab.launching.task import EARLY_SIGNALS, CellsTask
from sdqn_lab.runs.stopping import PREEMPTED_EXIT, STOP_SIGNALS, StopFlag

JOBS = ".slurm"
"""What submitit writes lies here, a fresh folder per submission, for job ids may recur."""
RESERVED = frozenset({"job-name", "array", "signal", "output", "error", "dependency", "time"})
"""Options of sbatch that are the launcher's own."""
LOST_GRACE_SECONDS = 60.0
"""So long a network file system may hide what happened on a node, and a queue that a job of it was
requeued."""


class SlurmLauncher(CellLauncher):
    """One array of jobs for the cells that are not finished.

    Args:
        partition: see sbatch; None takes the cluster's default, as with all that may be None.
        account: see sbatch.
        qos: see sbatch.
        constraint: see sbatch.
        exclude: nodes to avoid.
        gres: generic resources, e.g. `gpu:h200:1`.
        gpus_per_node: GPUs of a job.
        cpus_per_task: CPUs of a job, shared out among its cells.
        mem_gb: memory of a job, in GiB.
        timeout_min: time limit of a job, in minutes.
        signal_delay_s: seconds before the limit at which cells save and leave; less than half
            of it.
        max_num_timeout: how often a job that ran into its limit is requeued.
        array_parallelism: jobs of the sweep at once.
        cells_per_task: cells side by side in one job.
        setup: shell commands before a job starts, e.g. `[module load cuda]`.
        additional_parameters: further options of sbatch, name -> value.
        wait: stay and show the sweep until it ends; False: return once it is submitted.
        poll_seconds: seconds between looks at a sweep that is waited for.
        dry_run: only say what would run; read by the command before anything starts.

    Raises:
        ValueError: an argument is out of range.
        Refused: an argument does not fit another one, or an option of sbatch is the launcher's own.
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
        cpus_per_task: Count = 2,
        mem_gb: float | None = None,
        timeout_min: Count = 240,
        signal_delay_s: int = 120,
        max_num_timeout: Natural = 100,
        array_parallelism: Count = 256,
        cells_per_task: Count = 1,
        setup: list[str] | None = None,
        additional_parameters: dict[str, Any] | None = None,
        wait: bool = True,
        poll_seconds: Positive = 10.0,
        dry_run: bool = False,
    ) -> None:
        given = dict(locals())
        for own in ("self", "__class__"):
            given.pop(own, None)
        check_arguments(SlurmLauncher.__init__, given)
        for key, value in given.items():
            # Quotes do not hold a line of a job's script together: a shell would run the next one.
            if isinstance(value, str) and not value.isprintable():
                raise Refused(key, value, "must be one line")
        self.dry_run = dry_run
        # Hydra hands over its own lists and dicts; the ledger takes Python's.
        self.settings = {
            key: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
            for key, value in given.items()
        }
        further = self.settings["additional_parameters"] or {}
        if taken := sorted(RESERVED & {key.replace("_", "-") for key in further}):
            rule = f"must leave out {', '.join(taken)}, which the launcher's own keys set"
            rest = {key: v for key, v in further.items() if key.replace("_", "-") not in taken}
            shown = ", ".join(f"{key}: {value}" for key, value in rest.items())
            raise Refused("additional_parameters", further, rule, f"{{{shown}}}")
        half = 30 * timeout_min
        if not 0 < signal_delay_s < half:
            rule = f"must lie above 0 and below half the time limit ({half} s)"
            raise Refused("signal_delay_s", signal_delay_s, rule, str(half // 2))

    def start(self, sweep_dir: Path, names: list[str]) -> None:
        """Submit the cells that are neither finished nor in the queue already.

        Raises:
            SlurmError: SLURM does not answer, or refuses.
            Refused: they would be more jobs than an array may have.
        """
        seen = observe(sweep_dir)
        if seen.problem:
            raise queue.SlurmError(seen.problem)
        waiting, console = set(seen.names(ACTIVE)), output()
        todo = [name for name in unfinished(sweep_dir, names) if name not in waiting]
        if done := len(names) - len(todo):
            console.print(f"{done} of {len(names)} cells are finished or in the queue already")
        if not todo:
            return
        submission = submit(sweep_dir, todo, self.settings)
        array = next(iter(submission.jobs)).partition("_")[0]
        console.print(
            f"submitted {len(todo)} cells as {len(submission.jobs)} jobs: {array}\n"
            f"sweep: {sweep_dir}\n"
            f"look at it with: python -m sdqn_lab.sweep status {shlex.quote(str(sweep_dir))}",
            soft_wrap=True,
        )

    def wait(self, sweep_dir: Path) -> None:
        """Show the sweep until it ends.

        Raises:
            SystemExit: with code 143, if stopped by a signal; the jobs go on.
        """
        if self.settings["wait"]:
            watch(sweep_dir, self.settings["poll_seconds"])


def check_array(cells: int, cells_per_task: int) -> None:
    """Refuse a sweep of more jobs than an array may have here.

    Raises:
        Refused: with the `cells_per_task` that makes them few enough.
        SlurmError: SLURM does not answer.
    """
    jobs, max_jobs = math.ceil(cells / cells_per_task), queue.max_array_size()
    if jobs > max_jobs:
        key = "hydra.launcher.cells_per_task"
        rule = f"makes {jobs} jobs of {cells} cells, and an array has at most {max_jobs} here"
        instead = f"{key}={math.ceil(cells / max_jobs)}, with CPUs and memory for so many"
        raise Refused(key, cells_per_task, rule, instead)


def submit(sweep_dir: Path, names: list[str], settings: dict[str, Any]) -> Submission:
    """Submit cells as one array and list its jobs in the ledger.

    Raises:
        SlurmError: SLURM refuses, or does not answer.
        Refused: they would be more jobs than an array may have.
    """
    if shutil.which("sbatch") is None:
        raise queue.SlurmError("sbatch: no such command; submit from a machine of the cluster")
    size = settings["cells_per_task"]
    groups = [names[begin : begin + size] for begin in range(0, len(names), size)]
    check_array(len(names), size)
    ledger = Ledger.read(sweep_dir)
    submission = ledger.submit("slurm", settings, [], sweep_dir)
    # Job ids recur when a controller loses its state, so each submission has a name of its own;
    # and squeue takes names as a list with commas.
    plain_name = re.sub(r"[^\w.=+-]", "_", sweep_dir.name[:48], flags=re.ASCII)
    submission.job_name = f"{plain_name}-{secrets.token_hex(3)}"
    ledger.write(sweep_dir)
    folder = (sweep_dir / JOBS / f"{len(ledger.submissions) - 1:03d}").absolute()
    limits = {key: settings[key] for key in ("timeout_min", "signal_delay_s", "max_num_timeout")}
    tasks = [CellsTask(sweep_dir.absolute(), folder, group, **limits) for group in groups]
    # A job that is submitted must be in the ledger, whatever signal comes.
    with stop_signals_later():
        ids = submit_array(folder, tasks, sbatch_parameters(settings, submission.job_name))
        submission.jobs.update(zip(ids, groups, strict=True))
        submission.cells += names
        ledger.write(sweep_dir)
    return submission


@contextmanager
def stop_signals_later() -> Iterator[None]:
    """Hold stop signals back for a moment; none is lost."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def sbatch_parameters(settings: dict[str, Any], job_name: str) -> dict[str, Any]:
    """The launcher's settings as submitit names them."""
    passed = ["partition", "account", "qos", "constraint", "exclude", "gres", "gpus_per_node"]
    passed += ["cpus_per_task", "array_parallelism", "signal_delay_s", "setup"]
    parameters = {key: settings[key] for key in passed if settings[key] is not None}
    if settings["mem_gb"] is not None:
        parameters["mem"] = f"{round(settings['mem_gb'] * 1024)}M"
    further = {"requeue": True, **(settings["additional_parameters"] or {})}
    return {
        **parameters,
        "time": settings["timeout_min"],
        "job_name": job_name,
        # srun does not take over what sbatch was given, from SLURM 22.05 on.
        "srun_args": [f"--cpus-per-task={settings['cpus_per_task']}"],
        "stderr_to_stdout": True,
        "additional_parameters": {key: v for key, v in further.items() if v is not False},
    }


def submit_array(folder: Path, tasks: list[CellsTask], parameters: dict[str, Any]) -> list[str]:
    """Submit tasks as jobs of one array; returns their ids.

    Raises:
        SlurmError: SLURM refuses, or its answer makes no sense; no job is left.
    """
    # Imported here: Hydra loads this module in every program that it serves.
    from submitit.core.utils import FailedJobError, FailedSubmissionError
    from submitit.slurm.slurm import SlurmExecutor

    executor = SlurmExecutor(folder, python=shlex.join(python()))
    executor.update_parameters(**parameters)
    try:
        with own_environment(queue.environment()), executor.batch():
            jobs = [executor.submit(task) for task in tasks]
    except (FailedJobError, FailedSubmissionError, subprocess.SubprocessError, OSError) as error:
        # SLURM may have taken the jobs, and only its answer was lost: the ledger has none of them.
        with suppress(queue.SlurmError):
            if taken := list(queue.jobs([parameters["job_name"]])):
                queue.slurm("scancel", *taken)
        raise queue.SlurmError(f"sbatch: {queue.first_error(str(error)) or error}") from error
    return [str(job.job_id) for job in jobs]


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
    """The command by which a job starts Python: signals wait until it can listen to them.

    Loading can take a minute from a cluster's file system, and a preemption may come at any time.
    """
    numbers = ", ".join(str(int(number)) for number in EARLY_SIGNALS)
    block = f"signal.pthread_sigmask(signal.SIG_BLOCK, [{numbers}])"
    become = "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    return [sys.executable, "-I", "-S", "-c", f"import os, signal, sys; {block}; {become}"]


def watch(sweep_dir: Path, poll_seconds: float) -> Observation:
    """Show a sweep until nothing more will happen by itself.

    That a cell is lost, or stopped, is believed when it was seen so for a minute.

    Raises:
        SystemExit: with code 143, if stopped by a signal; the jobs go on.
    """
    console = new_console()
    stop, doubtful = StopFlag(), dict[str, float]()
    with stop.listening(), watching(console) as shown:
        while not stop.requested:
            seen = observe(sweep_dir)
            now = time.monotonic()
            # A cell that comes back in the meantime is doubted anew.
            doubtful = {n: doubtful.get(n, now) for n in seen.names(["lost", "stopped"])}
            if all(now - since > LOST_GRACE_SECONDS for since in doubtful.values()):
                shown.show(seen)
                if not seen.active and not seen.problem:
                    return seen
            stop.wait(poll_seconds)
    console.print(
        f"no longer watching; the jobs go on: "
        f"python -m sdqn_lab.sweep status {shlex.quote(str(sweep_dir))}",
        soft_wrap=True,
    )
    raise SystemExit(PREEMPTED_EXIT)
