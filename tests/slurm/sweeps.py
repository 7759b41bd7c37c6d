"""Sweeps of real cells on a cluster of the tests, and the faults that befall them."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from sdqn_lab.launching.ledger import Ledger
from tests.launching.sweeps import records
from tests.slurm.cluster import Cluster
from tests.slurm.throttled import BROKEN, SLOW

ROOT = Path(__file__).resolve().parents[2]
# Three iterations, each with its evaluation; seconds of work if nothing slows it down.
CELL = [
    *("env=cartpole", "budget=smoke", "time_window=2", "network.hidden=8", "tracker=none"),
    *("threads=1", "device=cpu", "budget.steps=2400", "budget.log_every_steps=80"),
    *("algo.learn_every_steps=32", "checkpoint_every_minutes=0.02"),
    "neuron._target_=tests.slurm.throttled.Throttled",
]
SLURM = [
    *("hydra/launcher=slurm", "hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=0.5"),
    "hydra.launcher.poll_seconds=1",
]
COMMAND = (sys.executable, "-m", "tests.slurm.command")
HOLD = "hydra.launcher.additional_parameters={hold: true}"
SECONDS = 180
"""Patience with a machine that does other things as well."""


OWN = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
"""Of every process: the tests importable, one thread."""


def undisturbed_sweep(folder: Path, seeds: int) -> list[list[dict[str, Any]]]:
    """The metrics of all cells, by seed, from one process on this machine."""
    own = ["hydra/launcher=basic", f"seed=range({seeds})", f"hydra.sweep.dir={folder}"]
    arguments = [sys.executable, "-m", "sdqn_lab.run", "-m", *CELL, *own]
    subprocess.run(arguments, cwd=folder, env=os.environ | OWN, capture_output=True, check=True)
    return [records(next(folder.glob(f"*_seed{seed}_*"))) for seed in range(seeds)]


class Sweep:
    """One cell per seed, on a cluster.

    Args:
        cluster: where.
        folder: where the commands are given; the sweep lies in it.
        seeds: how many cells.
        arguments: more of the command line.
    """

    def __init__(self, cluster: Cluster, folder: Path, seeds: int, *arguments: str) -> None:
        self.cluster, self.folder, self.seeds = cluster, folder, range(seeds)
        self.dir = folder / "sweep"
        self._command = [
            *(*COMMAND, "run", "-m", *CELL, f"seed=range({seeds})"),
            *(*SLURM, f"hydra.sweep.dir={self.dir}", *arguments),
        ]

    def slow(self, seconds: float = 0.1) -> None:
        """From now on all cells need their time."""
        (self.folder / SLOW).write_text(str(seconds))

    def fast(self) -> None:
        """From now on all cells run as fast as they can."""
        (self.folder / SLOW).unlink(missing_ok=True)

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Give the sweep's command, with more arguments, and wait for its end."""
        return self._done([*self._command, *arguments])

    def submit(self, *arguments: str) -> str:
        """Give the sweep's command without waiting for the cells; returns what it printed."""
        done = self.run("hydra.launcher.wait=false", *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    @contextmanager
    def running(self, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
        """The sweep's command at work, in the background."""
        with (self.folder / "command.log").open("ab") as log:
            process = subprocess.Popen(
                [*self._command, *arguments],
                cwd=self.folder,
                env=self.cluster.env | OWN,
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
            )
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def end(self, process: "subprocess.Popen[str]") -> tuple[int, str]:
        """Exit code and output of a command at work, when it has ended."""
        self.until(lambda: process.poll() is not None, "the command's end")
        return process.returncode, (self.folder / "command.log").read_text()

    def tend(self, verb: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """`python -m sdqn_lab.sweep VERB` on this sweep."""
        return self._done([*COMMAND, "sweep", verb, str(self.dir), *arguments])

    def relaunch(self, *arguments: str) -> int:
        """Start again what is missing and wait for it; returns the exit code."""
        return self.tend("relaunch", "hydra.launcher.wait=true", *arguments, "--trust").returncode

    def _done(self, arguments: list[str]) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            arguments,
            cwd=self.folder,
            env=self.cluster.env | OWN,
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS,
        )

    def until(self, condition: Callable[[], object], what: str, seconds: float = SECONDS) -> None:
        """Wait until a condition holds."""
        self.cluster.wait_until(condition, what, seconds)

    def cell(self, seed: int) -> Path:
        """A cell's directory."""
        (path,) = self.dir.glob(f"*_seed{seed}_*")
        return path

    def status(self, seed: int) -> dict[str, Any]:
        """What a cell says of itself; nothing before it is there."""
        try:
            status: dict[str, Any] = json.loads((self.cell(seed) / "status.json").read_text())
        except (FileNotFoundError, ValueError):
            return {}
        return status

    def starts(self, seed: int) -> int:
        """How often a cell was started."""
        return len(self.status(seed).get("attempts", []))

    def states(self) -> list[str]:
        """What every cell says of itself, by seed."""
        return [self.status(seed).get("state", "missing") for seed in self.seeds]

    def reports(self) -> list[dict[str, Any]]:
        """What `sweep status` says of every cell, by seed."""
        cells = json.loads(self.tend("status", "--json").stdout)["cells"]
        return sorted(cells, key=lambda cell: cell["seed"])

    def job(self, seed: int) -> str:
        """The job that a cell was last given to."""
        ledger, name = Ledger.read(self.dir), self.cell(seed).name
        submission = ledger.submission_of(name)
        assert submission is not None
        return next(job for job, names in submission.jobs.items() if name in names)

    def sacct(self, seed: int) -> str:
        """How the accounting says that a cell's job ended."""
        arguments = ("sacct", "-X", "-n", "-P", "-o", "State", "-j", self.job(seed))
        return self.cluster.run(*arguments)

    def steps(self, seed: int) -> int:
        """How far a cell's metrics tell that it is."""
        try:
            lines = (self.cell(seed) / "metrics.jsonl").read_text().split("\n")[:-1]
        except (FileNotFoundError, ValueError):
            return 0
        return int(json.loads(lines[-1])["step"]) if lines else 0

    def saved(self, seed: int) -> int:
        """Steps in a cell's checkpoint."""
        try:
            manifest = (self.cell(seed) / "checkpoint" / "manifest.json").read_text()
        except FileNotFoundError:
            return 0
        return int(json.loads(manifest)["facts"]["steps"])

    def under_way(self, seeds: Iterable[int], start: int = 1) -> None:
        """Wait until cells are in the middle of a start, with a checkpoint of their own."""
        wanted = list(seeds)
        self.until(
            lambda: all(self.starts(seed) == start and self._works(seed) for seed in wanted),
            f"start {start} of cells {wanted}",
        )

    def working(self) -> list[int]:
        """The cells that are in the middle of a start."""
        running = [seed for seed, state in enumerate(self.states()) if state == "running"]
        return [seed for seed in running if self._works(seed)]

    def _works(self, seed: int) -> bool:
        """Whether a cell has saved something since its last start."""
        try:
            saved = (self.cell(seed) / "checkpoint" / "manifest.json").stat().st_mtime
        except FileNotFoundError:
            return False
        return bool(saved > self.status(seed)["attempts"][-1]["process_start"])

    def restarted(self, seed: int, starts: int = 2) -> None:
        """Wait for a cell's next start."""
        self.until(lambda: self.starts(seed) >= starts, f"start {starts} of cell {seed}")

    def repeated(self, seed: int) -> int:
        """Steps of a cell that has stopped which its next start trains again."""
        return max(0, self.steps(seed) - self.saved(seed))

    def untouched(self) -> dict[Path, int]:
        """When the metrics of each finished cell were last written."""
        finished = [self.cell(s) for s in self.seeds if self.status(s)["state"] == "finished"]
        return {cell: (cell / "metrics.jsonl").stat().st_mtime_ns for cell in finished}

    def break_cell(self, seed: int) -> None:
        """Let a cell raise at its next step."""
        (self.cell(seed) / BROKEN).touch()

    def mend_cell(self, seed: int) -> None:
        """Let a cell go on as if nothing had been."""
        (self.cell(seed) / BROKEN).unlink()

    def kill_cell(self, seed: int) -> None:
        """Kill a cell's process."""
        os.kill(self.status(seed)["attempts"][-1]["pid"], signal.SIGKILL)

    def kill_job(self, seed: int) -> None:
        """Kill all processes of a cell's job at once, so that none of them writes a word."""
        processes = list(self._job_processes(self.job(seed)))
        assert processes
        for process in processes:
            process.suspend()
        for process in processes:
            process.kill()

    def signal_task(self, seed: int, number: signal.Signals) -> None:
        """Send a signal to the process that runs a job's cells, and to no other."""
        cell = psutil.Process(self.status(seed)["attempts"][-1]["pid"])
        task = cell.parent()
        assert task is not None
        task.send_signal(number)

    def release(self) -> None:
        """Let jobs begin that were submitted with `HOLD`."""
        jobs = Ledger.read(self.dir).submissions[-1].jobs
        self.cluster.run("scontrol", "release", *{job.partition("_")[0] for job in jobs})

    def signal_start(self, seed: int, number: signal.Signals) -> None:
        """Release jobs; signal that of a cell while its Python loads, before it can listen."""
        job, found = self.job(seed), list[psutil.Process]()
        self.release()

        def loading() -> bool:
            found[:] = [p for p in self._job_processes(job) if _loads(p)]
            return bool(found)

        self.until(loading, "the task's Python")
        for process in found:
            process.send_signal(number)

    def causes(self, seed: int) -> list[str | None]:
        """Why each start of a cell's job ended; None where it worked to its end."""
        (file,) = self.dir.glob(f".slurm/*/{self.job(seed)}_starts.json")
        return [start.get("cause") for start in json.loads(file.read_text())]

    def _job_processes(self, job: str) -> Iterator[psutil.Process]:
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                env = process.environ()
                if env.get("SLURM_CONF") == str(self.cluster.conf) and _job_of(env) == job:
                    yield process


def _job_of(env: Mapping[str, str]) -> str | None:
    """The job that a process belongs to, each task of an array by itself."""
    if "SLURM_ARRAY_JOB_ID" in env:
        return f"{env['SLURM_ARRAY_JOB_ID']}_{env['SLURM_ARRAY_TASK_ID']}"
    return env.get("SLURM_JOB_ID")


def _loads(process: psutil.Process) -> bool:
    """Whether it is the Python that will run a job's cells, and no shell or launcher around it."""
    with suppress(psutil.Error):
        return process.cmdline()[1:4] == ["-u", "-m", "submitit.core._submit"]
    return False
