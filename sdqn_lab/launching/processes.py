"""Cells as processes of their own: a crash does not affect the other cells.

Each is `python -m sdqn_lab.run --resume CELL --trust`, the command that a person would write, and
its output goes to `log.txt` in the cell's directory. What starts cells must make sure
that they import no class but those that the user's own command named.
"""

import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from sdqn_lab.runs.directory import BusyError, RunDirectory
from sdqn_lab.runs.stopping import BUSY_EXIT, PREEMPTED_EXIT, StopFlag

LOG = "log.txt"
POLL_SECONDS = 0.2
ENTRY = """
import ctypes, os, signal, sys
parent, cpus, *command = sys.argv[1:]
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if os.getppid() != int(parent):
    sys.exit(143)
if cpus:
    os.sched_setaffinity(0, [int(cpu) for cpu in cpus.split(",")])
os.execv(command[0], command)
"""
"""A wrapper that becomes the cell by exec. It blocks USR2, because SLURM sends it to all processes
of a job, and the launcher decides when cells stop. If its parent dies, it gets SIGTERM
(PR_SET_PDEATHSIG). It uses only its own CPUs."""


class Slot(NamedTuple):
    """A share of this machine, for one cell at a time."""

    environment: Mapping[str, str]
    cpus: frozenset[int] | None = None
    """The CPUs that the cell may use; None: those of this process."""


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, by the names that CUDA_VISIBLE_DEVICES takes."""
    import torch  # takes seconds, and looking at a sweep does not need it

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    return named.split(",")[:count] if named else [str(i) for i in range(count)]


def slots(processes: int | None, gpus: list[str], threads: int | None) -> list[Slot]:
    """Divide this machine.

    Args:
        processes: cells at once; None chooses as many as GPUs, or as CPUs for `threads` each.
        gpus: what CUDA_VISIBLE_DEVICES may take, one by one; empty for the CPU.
        threads: CPU threads of a cell; None shares the CPUs out, each cell those of its own.
    """
    cpus = sorted(os.sched_getaffinity(0))
    if processes is None:
        processes = len(gpus) or (max(1, len(cpus) // threads) if threads else 1)
    shared = threads is None and processes > 1
    shares = []
    for i in range(processes):
        own = frozenset(cpus[i % len(cpus) :: processes])
        gpu = {"CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)]} if gpus else {}
        shares.append(Slot(gpu, own if shared else None))
    return shares


class CellProcess:
    """A cell at work in a process of its own."""

    def __init__(self, path: Path, slot: Slot) -> None:
        self.path, self.slot = path, slot
        self._attempts = len(RunDirectory(path).status().get("attempts", []))
        cpus = ",".join(map(str, sorted(slot.cpus or ())))
        # Isolated and without site-packages, so that it takes no time and imports nothing else.
        become = [sys.executable, "-I", "-S", "-c", ENTRY, str(os.getpid()), cpus]
        with (path / LOG).open("ab") as log:
            self._process = subprocess.Popen(
                [*become, sys.executable, "-m", "sdqn_lab.run", "--resume", str(path), "--trust"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **slot.environment},
                start_new_session=True,  # Ctrl-C reaches the launcher, which passes it on
            )

    @property
    def ended(self) -> bool:
        """Whether the process is gone."""
        return self._process.poll() is not None

    def stop(self) -> None:
        """Ask it to save and leave."""
        if not self.ended:
            self._process.send_signal(signal.SIGTERM)

    def settle(self, stopped: bool) -> None:
        """Write into `status.json` what a process that died could not write itself.

        Args:
            stopped: it had been asked to stop.
        """
        code = self._process.wait()
        directory = RunDirectory(self.path)
        if code == BUSY_EXIT:  # it never had the run
            return
        try:
            with directory.lock():
                attempts = directory.status().get("attempts", [])
                reported = len(attempts) > self._attempts and "ended" in attempts[-1]
                if reported or directory.state == "finished":
                    return
                # A stop signal that came before the cell could listen is no fault of the cell's.
                if stopped or code in (PREEMPTED_EXIT, -signal.SIGTERM, -signal.SIGINT):
                    directory.end_attempt("preempted")
                else:
                    directory.end_attempt("failed", error=self._cause(code))
        except BusyError:
            return
        except (OSError, ValueError) as error:  # its directory is gone, or damaged
            print(f"{self.path.name}: {error}", file=sys.stderr, flush=True)

    def _cause(self, code: int) -> str:
        if code < 0:
            hint = ", perhaps for want of memory" if code == -signal.SIGKILL else ""
            return f"its process was ended by {signal.Signals(-code).name} from outside{hint}"
        lines = (self.path / LOG).read_text(errors="replace").strip().splitlines()
        return f"its process ended with code {code}: {lines[-1] if lines else 'without output'}"


def run_cells(
    paths: Iterable[Path],
    slots: Iterable[Slot],
    stop: StopFlag,
    look: Callable[[bool], None] = lambda changed: None,
) -> None:
    """Work through cells, one per slot at a time, until all have ended or a stop is requested.

    Args:
        paths: their directories, each with its `config.yaml`.
        slots: shares of this machine.
        stop: once set, cells at work are asked to save and leave, and no more are started.
        look: called a few times per second, with whether a cell began or ended since.
    """
    waiting, free, working = deque(paths), deque(slots), list[CellProcess]()
    asked = False
    while working or (waiting and not stop.requested):
        changed = False
        while waiting and free and not stop.requested:
            path = waiting.popleft()
            try:
                working.append(CellProcess(path, free[0]))
            except (OSError, ValueError) as error:  # its directory is gone, or damaged
                print(f"{path.name}: cannot be started: {error}", file=sys.stderr, flush=True)
                continue
            free.popleft()
            changed = True
        # Asked once: a second signal would cut short what a cell is saving.
        if stop.requested and not asked:
            asked = True
            for process in working:
                process.stop()
        for process in [p for p in working if p.ended]:
            process.settle(asked)
            working.remove(process)
            free.append(process.slot)
            changed = True
        look(changed)
        if not changed:
            time.sleep(POLL_SECONDS)
