"""Weights & Biases as a mirror of ``metrics.jsonl``; the only module that knows its client."""

from __future__ import annotations

import json
import os
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import psutil

from sdqn_lab.tracking.atomic import write_json
from sdqn_lab.tracking.mirror import BackgroundMirror, MirroredRun, one_line

if TYPE_CHECKING:
    import wandb

# The client takes most of a second to import, and only runs that use it shall pay.

Mode = Literal["online", "offline", "disabled"]
DEFAULT_PROJECT = "sdqn_lab"
SIGNALLED = 128
"""Exit codes above say that a signal stopped the run, which W&B calls preempted."""
SHIELDED = {signal.SIGUSR1, signal.SIGUSR2}
"""The client's service takes SIGTERM in any case, whatever mask it inherits."""
GRACE_SECONDS = 5.0
"""What the client may take beyond its own timeouts before it is ended from outside."""
UPLOAD_SETTINGS: Mapping[str, Any] = {
    "x_disable_stats": True,
    "x_disable_meta": True,
    "x_disable_machine_info": True,
    "x_save_requirements": False,
    "disable_git": True,
    "disable_code": True,
    "program": "-m sdqn_lab.run",
}
"""The machine that uploads is not the one that trained, and has nothing to tell of itself."""


class SyncError(Exception):
    """A run could not be brought to the server as a whole."""


class NoConnectionError(SyncError):
    """No key, a wrong key, or no server: the next run would meet the same."""


@dataclass(frozen=True)
class Address:
    """Where a run lives in W&B.

    Every attempt leaves it in ``wandb/run.json``: who continues or uploads the run may see its
    directory under another path, and an agent of a W&B sweep chooses the id itself.
    """

    own_id: str
    """`MirroredRun.id` of the attempt; a copy of the directory has another one."""
    id: str
    project: str
    entity: str | None = None
    sweep_id: str | None = None
    swept: dict[str, Any] = field(default_factory=dict)
    """Config as the W&B sweep words it; its keys take the place of the run's own."""

    @staticmethod
    def file(directory: Path) -> Path:
        """Where it is kept."""
        return directory / "wandb" / "run.json"

    @classmethod
    def read(cls, directory: Path) -> Address | None:
        """What the last attempt left; None if it had no W&B.

        Raises:
            ValueError: the file is damaged.
        """
        file = cls.file(directory)
        if not file.exists():
            return None
        try:
            return cls(**json.loads(file.read_text()))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{file}: not what a run writes ({one_line(error)})") from error

    def write(self, directory: Path) -> None:
        """Keep it."""
        self.file(directory).parent.mkdir(exist_ok=True)
        write_json(self.file(directory), asdict(self))


def _address(
    run: MirroredRun, stored: Address | None, project: str | None, entity: str | None
) -> Address:
    """Where a run belongs: as configured, else where it was, else as the environment says."""
    if stored and stored.sweep_id:
        return stored
    was = stored or Address(run.id, run.id, os.environ.get("WANDB_PROJECT") or DEFAULT_PROJECT)
    return replace(was, project=project or was.project, entity=entity or was.entity)


class WandB(BackgroundMirror):
    """One W&B run per cell, its files in ``wandb/`` of the run directory.

    W&B's own step is the line number in ``metrics.jsonl``: a continued run sends the lines that the
    server lacks and none that it has. An offline segment always holds the whole record from line 0.
    Under an agent of a W&B sweep the run has the id, project and entity that the agent gives it.
    The client is silent; what a person must know is said in one line.

    Args:
        run: the run to mirror.
        project: W&B project; None takes ``WANDB_PROJECT``, or sdqn_lab.
        entity: W&B user or team; None takes ``WANDB_ENTITY``, or the key's own.
        mode: online, offline or disabled; None takes ``WANDB_MODE``, or online where a key is
            configured and offline elsewhere.
        tags: tags of the W&B run.
        init_timeout_seconds: how long the server may take to accept the run.
        finish_timeout_seconds: how long the last records may take to arrive.
    """

    def __init__(
        self,
        run: MirroredRun,
        *,
        project: str | None = None,
        entity: str | None = None,
        mode: Mode | None = None,
        tags: list[str] | None = None,
        init_timeout_seconds: float = 30.0,
        finish_timeout_seconds: float = 20.0,
    ) -> None:
        self._project, self._entity = project, entity
        self._mode = mode or os.environ.get("WANDB_MODE") or None
        timeouts = (init_timeout_seconds, finish_timeout_seconds)
        self._session = _Session(run, run.directory, self._fault, tags or [], timeouts)
        super().__init__(run, label="W&B", patience_seconds=sum(timeouts) + GRACE_SECONDS)

    def _open(self) -> None:
        if self._mode == "disabled":
            return
        # A scheduler that announces preemption signals every process of the job. The client's
        # service inherits this thread's mask and survives, so the run can still say how it ended.
        signal.pthread_sigmask(signal.SIG_BLOCK, SHIELDED)
        self._session.setup()
        problem = self._connect(self._address())
        if problem:
            later = f"wandb sync {self._session.folder}"
            self.run.say(f"WARNING W&B: {problem}; recording offline, upload with {later}")

    def _address(self) -> Address:
        """Earlier attempts' own, if they were of this directory and not of one it is a copy of."""
        stored = Address.read(self.run.directory)
        if stored and stored.own_id != self.run.id:
            stored = None
        return _address(self.run, stored, self._project, self._entity)

    def _connect(self, address: Address) -> str | None:
        """An online run where one can be had, else an offline one; the fault, if any."""
        if self._mode in ("offline", "dryrun"):
            return self._go_offline(address)
        try:
            if has_key():
                self._session.start(address, "online")
                return None
        except Exception as error:  # wrong key, no server: there are many ways to say no
            self._session.reset()
            return self._go_offline(address, one_line(error))
        return self._go_offline(address, "no API key configured" if self._mode else None)

    def _go_offline(self, address: Address, why: str | None = None) -> str | None:
        """Begin a segment; those before it are not needed, for it will hold their records too."""
        _retire(_segments(self.run.directory))
        self._session.start(address, "offline")
        return why

    def _fault(self, message: str) -> None:
        """The client gave up uploading; it still writes to disk what it is given."""
        self._warn(f"{message}; upload with wandb sync {self._session.folder}")

    def _write(self, index: int, record: dict[str, Any]) -> None:
        self._session.write(index, record)

    def _close(self, exit_code: int) -> None:
        try:
            self._session.finish(exit_code)
        except TimeoutError as error:
            later = f"wandb sync {self._session.folder}"
            raise TimeoutError(
                f"the server did not take everything; upload with {later}"
            ) from error
        finally:
            self._session.teardown()

    def _drop(self) -> None:
        """Leave nothing for the interpreter's exit to stumble over."""
        self._session.teardown()

    def _abandon(self) -> None:
        _end_service()


def upload(
    run: MirroredRun,
    exit_code: int,
    *,
    project: str | None = None,
    entity: str | None = None,
    tags: list[str] | None = None,
    init_timeout_seconds: float = 30.0,
    finish_timeout_seconds: float = 600.0,
) -> int:
    """Send the lines of a run that the server lacks, and how the run stands.

    Nothing is left in the run's directory but its address and marks that tell ``wandb sync`` that
    the offline segments are not needed any more.

    Args:
        run: all that is recorded of it.
        exit_code: 0 finished, 1 failed, above 128 unfinished.
        project: W&B project; None takes the one of the run's attempts, ``WANDB_PROJECT``, or
            sdqn_lab.
        entity: W&B user or team; None takes that of the attempts, or the key's own.
        tags: tags of the W&B run.
        init_timeout_seconds: how long the server may take to accept the run.
        finish_timeout_seconds: how long all records may take to arrive.

    Returns:
        How many lines were sent.

    Raises:
        NoConnectionError: no key, a wrong one, or no server.
        SyncError: the server did not take everything.
        ValueError: ``wandb/run.json`` is damaged.
    """
    address = _address(run, Address.read(run.directory), project, entity)
    segments, faults = _segments(run.directory), list[str]()
    timeouts = (init_timeout_seconds, finish_timeout_seconds)
    with tempfile.TemporaryDirectory(prefix="sdqn_lab-", ignore_cleanup_errors=True) as scratch:
        session = _Session(run, Path(scratch), faults.append, tags or [], timeouts)
        try:
            _connect_or_raise(session, address)
            sent = sum(session.write(index, record) for index, record in enumerate(run.kept))
            session.finish(exit_code)
        except TimeoutError as error:
            line = f"not all records arrived within {finish_timeout_seconds:g} s; sync again"
            raise SyncError(line) from error
        except KeyboardInterrupt:
            _end_service()
            raise
        finally:
            # What is decided by now does not depend on how the service process ends: the client
            # would leave the program with that one's exit code.
            with suppress(Exception, SystemExit):
                session.teardown()
    if faults:
        raise SyncError(faults[0])
    _retire(segments)
    return sent


def _connect_or_raise(session: _Session, address: Address) -> None:
    if "WANDB_SWEEP_ID" in os.environ:
        raise SyncError("the client would take it for a run of WANDB_SWEEP_ID; unset that first")
    session.setup(UPLOAD_SETTINGS)
    try:
        keyed = has_key()
        if keyed:
            session.start(address, "online")
    except Exception as error:  # wrong key, no server: there are many ways to say no
        raise NoConnectionError(f"{_host()} does not accept the run: {one_line(error)}") from error
    if not keyed:
        raise NoConnectionError("no API key configured; write wandb login, or set WANDB_API_KEY")


class _Session:
    """The client with its service process, and the one run that it works on.

    Args:
        run: what is written.
        home: where the client may put its files.
        fault: told when the client gives up uploading.
        tags: tags of the W&B run.
        timeouts: seconds to begin, seconds to end.
    """

    def __init__(
        self,
        run: MirroredRun,
        home: Path,
        fault: Callable[[str], None],
        tags: list[str],
        timeouts: tuple[float, float],
    ) -> None:
        self._run, self._home, self._fault = run, home, fault
        self._tags, self._timeouts = tags, timeouts
        self._more: Mapping[str, Any] = {}
        self._client: wandb.Run | None = None

    @property
    def folder(self) -> Path:
        """Where the client keeps what it is given."""
        return Path(self._client.sync_dir) if self._client else self._home / "wandb"

    def setup(self, more: Mapping[str, Any] | None = None) -> None:
        """Start the service process, whose own logs stay at home too; ``more``: settings."""
        import wandb

        self._more = more or {}
        with environment("WANDB_CACHE_DIR", str(self._home / "wandb" / "cache")):
            quiet = wandb.Settings(silent=True)
            wandb.setup(settings=quiet)
        wandb.termsetup(quiet, _Listener(self._fault))

    def reset(self) -> None:
        """Begin with a fresh service process: this one still holds the run's id."""
        self.teardown()
        self.setup(self._more)

    def start(self, address: Address, mode: Literal["online", "offline"]) -> None:
        """Begin or continue the W&B run, and note where it is."""
        import wandb

        facts = {"directory": str(self._run.directory), "attempt": self._run.attempt}
        config = {**self._run.config, "run": facts, **address.swept}
        # An agent names the run by its environment; whatever is passed here the client would
        # ignore, and say so.
        commanded = bool(os.environ.get("WANDB_SWEEP_ID"))
        where: dict[str, Any] = {
            "id": address.id,
            "project": address.project,
            "entity": address.entity,
        }
        self._client = wandb.init(
            **({} if commanded else where),
            name=self._run.name,
            group=self._run.group,
            tags=self._tags,
            config=config,
            dir=self._home,
            mode=mode,
            resume="allow" if mode == "online" else None,
            reinit="create_new",
            settings=self._settings(None if commanded else address.sweep_id),
        )
        self._note(address, config)
        self._client.define_metric("step")
        self._client.define_metric("*", step_metric="step")

    def _settings(self, sweep_id: str | None) -> wandb.Settings:
        import wandb

        begin, end = self._timeouts
        more = {**self._more, "sweep_id": sweep_id} if sweep_id else self._more
        return wandb.Settings(
            silent=True,
            console="off",
            symlink=False,
            init_timeout=begin,
            finish_timeout=end,
            finish_timeout_raises=True,
            **more,
        )

    def _note(self, address: Address, config: dict[str, Any]) -> None:
        """Keep where the client put the run, for later attempts and uploads."""
        assert self._client is not None
        told = dict(self._client.config) if self._client.sweep_id else {}
        swept = {key: value for key, value in told.items() if config.get(key) != value}
        replace(
            address,
            id=self._client.id,
            project=self._client.project,
            entity=self._client.entity or address.entity,
            sweep_id=self._client.sweep_id,
            swept={**address.swept, **swept},
        ).write(self._run.directory)

    def write(self, index: int, record: dict[str, Any]) -> bool:
        """Send line ``index`` unless the server has it; whether it was sent."""
        if self._client is None or index < self._client.starting_step:
            return False
        self._client.log(record, step=index, commit=True)
        return True

    def finish(self, exit_code: int) -> None:
        """Wait until all is sent.

        Raises:
            TimeoutError: it took too long.
        """
        if self._client is None:
            return
        if exit_code > SIGNALLED:
            self._client.mark_preempting()
        self._client.finish(exit_code)

    def teardown(self) -> None:
        """End the service process."""
        import wandb

        wandb.teardown()


def _segments(directory: Path) -> list[Path]:
    """Logs of the attempts that recorded offline."""
    return sorted(directory.glob("wandb/offline-run-*/run-*.wandb"))


def _retire(segments: list[Path]) -> None:
    """Mark as uploaded: ``wandb sync`` would add the records of every segment it is given."""
    for log in segments:
        log.with_name(f"{log.name}.synced").touch()


def _end_service() -> None:
    """End the client's service process: the interpreter would wait for it at exit."""
    for child in psutil.Process().children():
        if child.name().startswith("wandb-core"):
            child.kill()


class _Listener:
    """What the silent client would have told a terminal; only what loses records is passed on."""

    def __init__(self, fault: Callable[[str], None]) -> None:
        self._fault = fault

    def info(self, message: str) -> None:
        """Retries, greetings: nothing that a person must know."""

    def warning(self, message: str) -> None:
        """Pass on the one that says that uploading has ended."""
        if "Fatal error" in message:
            self._fault(_first(message.rpartition("WARNING ")[2]))

    def error(self, message: str) -> None:
        """Pass on every error."""
        self._fault(_first(message.rpartition("ERROR ")[2]))


def _first(message: str) -> str:
    """The first sentence, which says what happened; the others recommend."""
    return message.partition(". ")[0]


def has_key() -> bool:
    """Whether W&B finds a key: environment, netrc file, or its settings; never asks for one."""
    import wandb.sdk.lib.wbauth

    found = wandb.sdk.lib.wbauth.authenticate_session(
        host=_host(), source="sdqn_lab", prompt=False, update_session=False
    )
    return found is not None


def _host() -> str:
    """The server's address."""
    import wandb

    return wandb.setup().settings.base_url


@contextmanager
def environment(name: str, value: str) -> Iterator[None]:
    """Set a variable for a moment, unless the user has set it."""
    if name in os.environ:
        yield
        return
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]
