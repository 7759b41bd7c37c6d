"""Weights & Biases as a mirror of ``metrics.jsonl``. The only module that knows the wandb client."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Literal

import psutil

from sdqn_lab.tracking.mirror import BackgroundMirror, MirroredRun

if TYPE_CHECKING:
    import wandb

Mode = Literal["online", "offline", "disabled"]
DEFAULT_PROJECT = "sdqn_lab"
SIGNALLED = 128
"""Exit codes above say that a signal stopped the run, which W&B calls preempted."""
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
        mode: online, offline or disabled; None takes ``WANDB_MODE``, or online where a key is configured
            and offline elsewhere.
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
        import wandb  # takes most of a second, and only runs that use it shall pay

        wandb.setup(settings=wandb.Settings(silent=True))
        self._client = self._connect()
        self._client.define_metric("step")
        self._client.define_metric("*", step_metric="step")

    def _connect(self) -> wandb.Run:
        """An online run where one can be had, else an offline one."""
        if self._mode in ("offline", "dryrun"):
            return self._start("offline")
        try:
            if _has_key():
                return self._start("online")
            problem = "no API key configured" if self._mode else None
        except Exception as error:  # wrong key, no server, no such project: W&B has many ways to refuse
            problem = " ".join(str(error).split())[:200]
        if problem:
            self.run.say(f"WARNING W&B: {problem}; recording offline, upload later with wandb sync")
        return self._start("offline")

    def _start(self, mode: Literal["online", "offline"]) -> wandb.Run:
        import wandb

        facts = {"directory": str(self.run.directory), "attempt": self.run.attempt}
        settings = wandb.Settings(
            silent=True,
            console="off",
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
        if exit_code > SIGNALLED:
            self._client.mark_preempting()
        try:
            self._client.finish(exit_code)
        except TimeoutError as error:
            folder = self._client.sync_dir
            raise TimeoutError(f"the server did not take all; wandb sync {folder}") from error

    def _abandon(self) -> None:
        """End the client's service process: the interpreter would wait for it at exit."""
        for child in psutil.Process().children():
            if child.name().startswith("wandb-core"):
                child.kill()


def _has_key() -> bool:
    """Whether W&B finds a key, in the environment, a netrc file or its settings; never asks for one."""
    import wandb
    from wandb.sdk.lib import wbauth

    host = wandb.setup().settings.base_url
    found = wbauth.authenticate_session(
        host=host, source="sdqn_lab", prompt=False, update_session=False
    )
    return found is not None
