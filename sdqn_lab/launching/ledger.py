"""`ledger.json`: the cells of a sweep, and what was started for them, when, with which code.

Written by the commands that start cells, never by the cells, which write their own `status.json`.
What became of a cell follows from both files and from what the scheduler says.
"""

import fcntl
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import psutil
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from sdqn_lab.runs import provenance
from sdqn_lab.runs.directory import BusyError, RunDirectory, timestamp
from sdqn_lab.runs.files import read, write_atomic

FILE = "ledger.json"


class LedgerError(Exception):
    """No ledger where one is needed, or one that cannot be read."""


class Entry(BaseModel):
    """What must be known of a cell without opening its directory."""

    model_config = ConfigDict(extra="forbid")

    overrides: list[str]
    """What composes the cell anew, `hydra.searchpath` and `hydra.sweep.subdir` included."""
    game: str
    seed: int
    steps: int
    """Agent steps that the cell asks for."""


def plain_name(name: str) -> str:
    """Refuse a cell that would lie anywhere but in its sweep's folder."""
    if Path(name).name != name or name in (".", ".."):
        raise ValueError(f"{name!r} is a path, a cell has a name")
    return name


CellName = Annotated[str, AfterValidator(plain_name)]


class Submission(BaseModel):
    """One start of cells: who started them, with which code, and under which jobs."""

    model_config = ConfigDict(extra="forbid")

    launcher: Literal["local", "slurm"]
    settings: dict[str, Any]
    command: list[str]
    time: str
    host: str
    pid: int
    process_start: float
    code: dict[str, Any]
    job_name: str | None = None
    """SLURM: the name of its jobs, another one for every submission."""
    jobs: dict[str, list[CellName]] = Field(default_factory=dict)
    """SLURM's job id -> names of the cells that it works on."""
    cells: list[CellName] = Field(default_factory=list)
    ended: str | None = None
    """Local: when its launcher had started what it was going to start."""
    cancelled: str | None = None
    """When its jobs were cancelled by command."""

    @property
    def elsewhere(self) -> bool:
        """Whether it was made on another machine, whose processes cannot be seen from here."""
        return self.host != socket.gethostname()

    @property
    def alive(self) -> bool:
        """Whether the process that made it still works, on this machine."""
        return self.ended is None and process_lives(self.host, self.pid, self.process_start)

    def job_of(self, cell: str) -> str | None:
        """The job that works on a cell."""
        return next((job for job, cells in self.jobs.items() if cell in cells), None)


class Ledger(BaseModel):
    """The whole file."""

    model_config = ConfigDict(extra="forbid")

    version: Literal[1] = 1
    cells: dict[CellName, Entry] = Field(default_factory=dict)
    submissions: list[Submission] = Field(default_factory=list)

    @classmethod
    def read(cls, sweep_dir: Path) -> Self:
        """The ledger of a sweep.

        Raises:
            LedgerError: there is none, or it is damaged.
        """
        file = sweep_dir / FILE
        if not file.exists():
            missing = f"holds no {FILE}" if sweep_dir.is_dir() else "no such directory"
            raise LedgerError(f"{sweep_dir}: {missing}; write the directory of a sweep")
        try:
            return cls.model_validate_json(read(file))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the file"
            advice = "put the file back, or use the version of sdqn_lab that wrote it"
            raise LedgerError(f"{file}: {where}: {first['msg']}; {advice}") from error
        except ValueError as error:
            raise LedgerError(str(error)) from error

    @classmethod
    def open(cls, sweep_dir: Path) -> Self:
        """The ledger of a sweep, a new one where there is none."""
        return cls.read(sweep_dir) if (sweep_dir / FILE).exists() else cls()

    def write(self, sweep_dir: Path) -> None:
        """Replace the file, atomically."""
        write_atomic(sweep_dir / FILE, f"{self.model_dump_json(indent=1)}\n".encode())

    def submit(
        self,
        launcher: Literal["local", "slurm"],
        settings: dict[str, Any],
        cells: list[str],
        sweep_dir: Path,
    ) -> Submission:
        """Add a start of cells; changes to the code against its commit are kept beside it."""
        process = psutil.Process()
        submission = Submission(
            launcher=launcher,
            settings=settings,
            command=[Path(sys.orig_argv[0]).name, *sys.orig_argv[1:]],
            time=timestamp(),
            host=socket.gethostname(),
            pid=process.pid,
            process_start=process.create_time(),
            code=provenance.code(),
            cells=cells,
        )
        if text := provenance.diff():
            write_atomic(sweep_dir / f"code-{len(self.submissions)}.diff", f"{text}\n".encode())
        self.submissions.append(submission)
        return submission

    def submission_of(self, cell: str) -> Submission | None:
        """The last start of a cell."""
        return next((s for s in reversed(self.submissions) if cell in s.cells), None)


_own: set[Path] = set()
"""The sweeps that this process has locked."""


@contextmanager
def locked(sweep_dir: Path) -> Iterator[None]:
    """The exclusive lock for starting cells of a sweep; it ends with its process.

    Raises:
        BusyError: another command is starting cells.
        LedgerError: a file of the sweep is a link, and locking would go through it.
    """
    with ExitStack() as held:
        try:
            held.enter_context(RunDirectory(sweep_dir).lock())
        except BusyError as error:
            raise BusyError(
                f"{sweep_dir}: another command works on this sweep; wait for it, or write "
                f"python -m sdqn_lab.sweep status {sweep_dir}"
            ) from error
        except ValueError as error:
            raise LedgerError(str(error)) from error
        _own.add(sweep_dir.resolve())
        held.callback(_own.remove, sweep_dir.resolve())
        yield


def is_held(folder: Path) -> bool:
    """Whether another process, on whichever machine, has locked the run or sweep of a folder."""
    # A second lock on a file conflicts even within one process.
    if folder.resolve() in _own:
        return False
    try:
        # Read-only and shared: a sweep may belong to another user, and NFS wants it so.
        with (folder / ".lock").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


def process_lives(host: str, pid: int, start: float) -> bool:
    """Whether that very process lives on this machine."""
    if host != socket.gethostname():
        return False
    try:
        process = psutil.Process(pid)
        zombie = process.status() == psutil.STATUS_ZOMBIE  # nobody has asked how it ended
        return abs(process.create_time() - start) < 1.0 and not zombie
    except psutil.NoSuchProcess:
        return False
