"""Weights & Biases as a mirror of ``metrics.jsonl``; the only module that knows its client."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import psutil

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


class WandB(BackgroundMirror):
    """One W&B run per cell, its files in ``wandb/`` of the run directory.

    W&B's own step is the line number in ``metrics.jsonl``: a continued run sends the lines that the
    server lacks and none that it has. An offline segment always holds the whole record from line 0.
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
        self._project = project or os.environ.get("WANDB_PROJECT") or DEFAULT_PROJECT
        self._entity, self._tags = entity, list(tags or [])
        self._mode = mode or os.environ.get("WANDB_MODE") or None
        self._init_timeout, self._finish_timeout = init_timeout_seconds, finish_timeout_seconds
        self._client: wandb.Run | None = None
        patience = init_timeout_seconds + finish_timeout_seconds + GRACE_SECONDS
        super().__init__(run, label="W&B", patience_seconds=patience)

    def _open(self) -> None:
        if self._mode == "disabled":
            return
        # A scheduler that announces preemption signals every process of the job. The client's
        # service inherits this thread's mask and survives, so the run can still say how it ended.
        signal.pthread_sigmask(signal.SIG_BLOCK, SHIELDED)
        self._setup()
        self._client, problem = self._connect()
        self._client.define_metric("step")
        self._client.define_metric("*", step_metric="step")
        if problem:
            later = f"wandb sync {self._client.sync_dir}"
            self.run.say(f"WARNING W&B: {problem}; recording offline, upload with {later}")

    def _setup(self) -> None:
        """Start the client's service process, whose own logs stay in the run directory too."""
        import wandb

        with _environment("WANDB_CACHE_DIR", str(self.run.directory / "wandb" / "cache")):
            quiet = wandb.Settings(silent=True)
            wandb.setup(settings=quiet)
        wandb.termsetup(quiet, _Listener(self._fault))

    def _fault(self, message: str) -> None:
        """The client gave up uploading; it still writes to disk what it is given."""
        folder = self._client.sync_dir if self._client else self.run.directory / "wandb"
        self._warn(f"{message.partition('. ')[0]}; upload with wandb sync {folder}")

    def _connect(self) -> tuple[wandb.Run, str | None]:
        """An online run where one can be had, else an offline one and the fault, if any."""
        if self._mode in ("offline", "dryrun"):
            return self._start("offline"), None
        try:
            if _has_key():
                return self._start("online"), None
        except Exception as error:  # wrong key, no server: there are many ways to say no
            self._reset()
            return self._start("offline"), one_line(error)
        return self._start("offline"), "no API key configured" if self._mode else None

    def _reset(self) -> None:
        """Begin with a fresh service process: this one still holds the run's id."""
        import wandb

        wandb.teardown()
        self._setup()

    def _retire_segments(self) -> None:
        """Mark older offline segments as uploaded: the next one holds their records too.

        ``wandb sync`` would add the records of every segment that it is given.
        """
        for log in self.run.directory.glob("wandb/offline-run-*/run-*.wandb"):
            log.with_name(f"{log.name}.synced").touch()

    def _start(self, mode: Literal["online", "offline"]) -> wandb.Run:
        import wandb

        if mode == "offline":
            self._retire_segments()
        facts = {"directory": str(self.run.directory), "attempt": self.run.attempt}
        settings = wandb.Settings(
            silent=True,
            console="off",
            symlink=False,
            init_timeout=self._init_timeout,
            finish_timeout=self._finish_timeout,
            finish_timeout_raises=True,
        )
        return wandb.init(
            project=self._project,
            entity=self._entity,
            id=self.run.id,
            name=self.run.name,
            group=self.run.group,
            tags=self._tags,
            config={**self.run.config, "run": facts},
            dir=self.run.directory,
            mode=mode,
            resume="allow" if mode == "online" else None,
            reinit="create_new",
            settings=settings,
        )

    def _write(self, index: int, record: dict[str, Any]) -> None:
        if self._client is not None and index >= self._client.starting_step:
            self._client.log(record, step=index, commit=True)

    def _close(self, exit_code: int) -> None:
        if self._client is None:
            return
        import wandb

        if exit_code > SIGNALLED:
            self._client.mark_preempting()
        try:
            self._client.finish(exit_code)
        except TimeoutError as error:
            later = f"wandb sync {self._client.sync_dir}"
            raise TimeoutError(
                f"the server did not take everything; upload with {later}"
            ) from error
        finally:
            wandb.teardown()

    def _drop(self) -> None:
        """Leave nothing for the interpreter's exit to stumble over."""
        import wandb

        wandb.teardown()

    def _abandon(self) -> None:
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
            self._fault(message.rpartition("WARNING ")[2])

    def error(self, message: str) -> None:
        """Pass on every error."""
        self._fault(message.rpartition("ERROR ")[2])


def _has_key() -> bool:
    """Whether W&B finds a key: environment, netrc file, or its settings; never asks for one."""
    import wandb.sdk.lib.wbauth

    host = wandb.setup().settings.base_url
    found = wandb.sdk.lib.wbauth.authenticate_session(
        host=host, source="sdqn_lab", prompt=False, update_session=False
    )
    return found is not None


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """Set a variable for a moment, unless the user has set it."""
    if name in os.environ:
        yield
        return
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]
