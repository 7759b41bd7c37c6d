"""Weights & Biases as a tracker; the only module of this room that knows its client."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sdqn_lab.checks.extras import WANDB
from sdqn_lab.runs.files import write_json
from sdqn_lab.tracking.tracker import TrackedRun, Tracker, brief

# The client takes most of a second to import, so functions that use it do so themselves.
if TYPE_CHECKING:
    import wandb

Mode = Literal["online", "offline", "disabled"]
ADDRESS = "wandb/run.json"
DEFAULT_PROJECT = "sdqn_lab"
NO_KEY = "no API key configured"
# Above, a signal stopped the run, which W&B calls preempted.
MAX_EXIT_CODE = 128
# The machine that uploads is not the one that trained, so nothing of it is recorded.
UPLOAD_SETTINGS: Mapping[str, Any] = {
    "x_disable_stats": True,
    "x_disable_meta": True,
    "x_disable_machine_info": True,
    "x_save_requirements": False,
    "disable_git": True,
    "disable_code": True,
    "program": "-m sdqn_lab.run",
}


class SyncError(Exception):
    """A run could not be brought to the server as a whole."""


class NoConnectionError(SyncError):
    """No key, a wrong key, or no server: the next run would meet the same."""


@dataclass(frozen=True)
class Address:
    """Where a run lives in W&B.

    Every attempt leaves it in `wandb/run.json`: the run may be continued or
    uploaded from another path, and an agent of a W&B sweep chooses the id itself.
    """

    own_id: str
    """`TrackedRun.id` of the attempt; a copy of the directory has another one."""
    id: str
    project: str
    entity: str | None = None
    sweep_id: str | None = None
    swept: dict[str, Any] = field(default_factory=dict)
    """Config as the W&B sweep writes it; its keys take the place of the run's own."""

    @classmethod
    def read(cls, directory: Path) -> Address | None:
        """What the last attempt left; None if it had no W&B.

        Raises:
            ValueError: the file is damaged.
        """
        file = directory / ADDRESS
        if not file.exists():
            return None
        try:
            return cls(**json.loads(file.read_text()))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{file}: not what a run writes ({brief(error)})") from error

    def write(self, directory: Path) -> None:
        """Keep it."""
        (directory / ADDRESS).parent.mkdir(exist_ok=True)
        write_json(directory / ADDRESS, asdict(self))


class Listener:
    """The terminal of the silent client; only what loses records is passed on.

    Args:
        fault: takes the first sentence, which says what happened; the others recommend.
    """

    def __init__(self, fault: Callable[[str], None]) -> None:
        self._fault = fault

    def info(self, message: str) -> None:
        """Retries and greetings: nothing that a person must know."""

    def warning(self, message: str) -> None:
        """Pass on the one that says that uploading has ended."""
        if "Fatal error" in message:
            self._fault(message.rpartition("WARNING ")[2].partition(". ")[0])

    def error(self, message: str) -> None:
        """Pass on every error."""
        self._fault(message.rpartition("ERROR ")[2].partition(". ")[0])


class WandB(Tracker):
    """One W&B run per cell, its files in `wandb/` of the run directory.

    W&B's own step is the line number in `metrics.jsonl`: a continued run sends the lines that the
    server lacks and none that it has. An offline segment always holds the whole record from line 0.
    Under an agent of a W&B sweep the run has the id, project and entity that the agent gives it.
    The client is silent; what a person must know is said in one line.

    Args:
        project: W&B project; None takes `WANDB_PROJECT`, or sdqn_lab.
        entity: W&B user or team; None takes `WANDB_ENTITY`, or the key's own.
        mode: online, offline or disabled; None takes `WANDB_MODE`, or online where a key is
            configured and offline elsewhere.
        tags: tags of the W&B run.
        notes: its description.
        job_type: a name by which W&B groups runs within a group.
        init_timeout_seconds: how long the server may take to accept the run.
        finish_timeout_seconds: how long the last records may take to arrive.
    """

    extra = WANDB

    def __init__(
        self,
        *,
        project: str | None = None,
        entity: str | None = None,
        mode: Mode | None = None,
        tags: list[str] | None = None,
        notes: str | None = None,
        job_type: str | None = None,
        init_timeout_seconds: float = 30.0,
        finish_timeout_seconds: float = 120.0,
    ) -> None:
        self._project, self._entity, self._mode = project, entity, mode
        self._labels: dict[str, Any] = {"tags": tags or [], "notes": notes, "job_type": job_type}
        self._timeouts = (init_timeout_seconds, finish_timeout_seconds)
        self._client: wandb.Run | None = None
        self._faults: list[str] = []

    def open(self, run: TrackedRun) -> int:
        """An online run where one can be had, else an offline one."""
        self._run, self._home = run, run.directory
        mode = self._mode or os.environ.get("WANDB_MODE") or None
        if mode == "disabled":
            return 0
        stored = Address.read(run.directory)
        if stored and stored.own_id != run.id:
            stored = None  # of the directory that this one is a copy of
        address, problem = self._address(stored), NO_KEY if mode == "online" else None
        self._setup()
        try:
            if mode not in ("offline", "dryrun") and has_key():
                return self._begin(address, "online")
        except Exception as error:  # wrong key, no server: there are many ways to say no
            problem = brief(error)
            self.teardown()  # the service process still holds the run's id
            self._setup()
        if problem:
            run.warn(f"W&B: {problem}; recording offline")
        _mark_synced(run.directory)  # the new segment will hold their records too
        return self._begin(address, "offline")

    def log(self, index: int, record: dict[str, Any]) -> None:
        """Send a line."""
        if self._client:
            self._client.log(record, step=index, commit=True)

    def close(self, exit_code: int) -> None:
        """Wait until all is sent.

        Raises:
            SyncError: the server did not take everything.
        """
        if self._client is None:
            return
        if exit_code > MAX_EXIT_CODE:
            self._client.mark_preempting()
        try:
            self._client.finish(exit_code)
        except TimeoutError as error:
            raise SyncError(f"not all records arrived within {self._timeouts[1]:g} s") from error
        if self._faults:
            raise SyncError(self._faults[0])
        self.teardown()

    def teardown(self) -> None:
        """End the service process, which would leave the program with an exit code of its own."""
        import wandb

        with suppress(Exception, SystemExit):
            wandb.teardown()

    def _address(self, stored: Address | None) -> Address:
        """Where a run belongs: as configured, else where it was, else as the environment says."""
        # W&B's sweep knows its run by these alone: no setting may move it elsewhere.
        if stored and stored.sweep_id:
            return stored
        own, project = self._run.id, os.environ.get("WANDB_PROJECT") or DEFAULT_PROJECT
        known = stored or Address(own, own, project)
        return replace(
            known, project=self._project or known.project, entity=self._entity or known.entity
        )

    def _setup(self) -> None:
        """Start the service process, whose own logs stay at home too."""
        import wandb

        with environment("WANDB_CACHE_DIR", str(self._home / "wandb" / "cache")):
            # The mode is chosen for each run; WANDB_MODE would keep a key from being found.
            quiet = wandb.Settings(silent=True, mode="online")
            wandb.setup(settings=quiet)
        wandb.termsetup(quiet, Listener(self._fault))

    def _fault(self, message: str) -> None:
        """The client gave up uploading; it still writes to disk what it is given."""
        self._faults.append(message)
        self._run.warn(f"W&B: {message}")

    def _begin(self, address: Address, mode: Literal["online", "offline"], **more: Any) -> int:
        """Begin or continue the W&B run and note where it is; the number of lines it has."""
        import wandb

        run, (begin, end) = self._run, self._timeouts
        facts = {"directory": str(run.directory), "attempt": run.attempt}
        config = {**run.config, "run": facts, **address.swept}
        where = {key: getattr(address, key) for key in ("id", "project", "entity")}
        if os.environ.get("WANDB_SWEEP_ID"):
            where = {}  # the agent says it by the environment, which the client prefers
        elif address.sweep_id:
            more["sweep_id"] = address.sweep_id
        self._client = client = wandb.init(
            **where,
            **self._labels,
            name=run.name,
            group=run.group,
            config=config,
            dir=self._home,
            mode=mode,
            resume="allow" if mode == "online" else None,
            reinit="create_new",
            settings=wandb.Settings(
                silent=True,
                console="off",
                # No link `latest-run`: a run directory is copied and mailed, and ends at itself.
                symlink=False,
                init_timeout=begin,
                finish_timeout=end,
                # Else a server that was too slow would pass for one that has taken everything.
                finish_timeout_raises=True,
                **more,
            ),
        )
        chosen = dict(client.config) if client.sweep_id else {}
        swept = {key: value for key, value in chosen.items() if config.get(key) != value}
        replace(
            address,
            id=client.id,
            project=client.project,
            entity=client.entity or address.entity,
            sweep_id=client.sweep_id,
            swept={**address.swept, **swept},
        ).write(run.directory)
        client.define_metric("step")
        client.define_metric("*", step_metric="step")
        return client.starting_step


class Upload(WandB):
    """A run brought to the server later, from any machine: as a whole, or there is an error.

    Nothing is left in the run's directory but its address, and marks by which `wandb sync` knows
    that the offline segments are not needed any more.

    Args:
        home: where the client may put its files.
        settings: as of `WandB`.
    """

    def __init__(self, home: Path, **settings: Any) -> None:
        super().__init__(**settings)
        self._home = home

    def open(self, run: TrackedRun) -> int:
        """Begin or continue the run at the server.

        Raises:
            NoConnectionError: no key, a wrong one, or no server.
            SyncError: under an agent of a W&B sweep.
            ValueError: `wandb/run.json` is damaged.
        """
        self._run = run
        if "WANDB_SWEEP_ID" in os.environ:
            line = "the client would take it for a run of WANDB_SWEEP_ID; unset that first"
            raise SyncError(line)
        address = self._address(Address.read(run.directory))
        self._setup()
        try:
            if has_key():
                return self._begin(address, "online", **UPLOAD_SETTINGS)
        except Exception as error:  # wrong key, no server: there are many ways to say no
            raise NoConnectionError(f"W&B does not accept the run: {brief(error)}") from error
        raise NoConnectionError(f"{NO_KEY}; write wandb login, or set WANDB_API_KEY")

    def close(self, exit_code: int) -> None:
        """Wait until all is sent, and mark the segments as uploaded."""
        # In this order: where not all arrived this raises, and the segments stay unmarked.
        super().close(exit_code)
        _mark_synced(self._run.directory)


def _mark_synced(directory: Path) -> None:
    """`wandb sync` would add the records of every offline segment that has no such mark."""
    for log in directory.glob("wandb/offline-run-*/run-*.wandb"):
        # Through a link the mark would be made outside of the run's directory.
        if not (log.is_symlink() or log.parent.is_symlink()):
            log.with_name(f"{log.name}.synced").touch()


def has_key() -> bool:
    """Whether W&B finds a key: environment, netrc file, or its settings; never asks for one."""
    import wandb

    return wandb.login(prompt=False, verify=False)


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
