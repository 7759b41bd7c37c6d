"""Runs that trained without a network, brought to W&B from their own records.

What is uploaded is ``metrics.jsonl``, ``config.yaml`` and ``status.json``; the client's offline
files are not needed. It runs where nothing is installed but the client: on a login node.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import yaml

from sdqn_lab.tracking.mirror import mirrored_run, one_line
from sdqn_lab.tracking.run_directory import BusyError, RunDirectory
from sdqn_lab.tracking.wandb import SyncError, upload

WANDB = "sdqn_lab.tracking.wandb.WandB"
EXIT_CODES = {"finished": 0, "failed": 1}
UNFINISHED = 143
"""W&B calls a run that ended like this preempted, not failed."""


class Synced(NamedTuple):
    """Lines of ``metrics.jsonl``."""

    sent: int
    present: int
    """Those that the server had already."""


def sync_run(
    directory: RunDirectory,
    say: Callable[[str], None],
    *,
    init_timeout_seconds: float = 30.0,
    finish_timeout_seconds: float = 600.0,
) -> Synced | None:
    """Upload what the server lacks of one run, whichever tracker it trained with.

    Doing it again, or going on after an interruption, sends nothing twice.

    Args:
        directory: the run's.
        say: shows a person one line.
        init_timeout_seconds: how long the server may take to accept the run.
        finish_timeout_seconds: how long all records may take to arrive.

    Returns:
        How many records were sent and how many were there; None for a run that has not begun or
        that a process works on, which is left alone.

    Raises:
        NoConnectionError: no key, a wrong one, or no server; a caller need not try other runs.
        SyncError: this run could not be read, or did not arrive as a whole.
    """
    name = directory.path.name
    try:
        why_not = _why_not(directory)
        if why_not:
            say(f"{name}: {why_not}, skipped")
            return None
        config = _config(directory)
        run = mirrored_run(directory, config, say)
        sent = upload(
            run,
            EXIT_CODES.get(str(directory.state), UNFINISHED),
            **_account(config.get("tracker")),
            init_timeout_seconds=init_timeout_seconds,
            finish_timeout_seconds=finish_timeout_seconds,
        )
    except SyncError as error:
        raise type(error)(f"{directory.path}: {error}") from error
    except Exception as error:  # damaged files, a client that died: the caller gets one line
        line = one_line(error) or type(error).__name__
        raise SyncError(f"{directory.path}: {line}") from error
    synced = Synced(sent, len(run.kept) - sent)
    say(f"{name}: {synced.sent:,} records uploaded, {synced.present:,} were there")
    return synced


def _why_not(directory: RunDirectory) -> str | None:
    """Why a run is left alone; None where it is to be uploaded."""
    status = directory.status()
    if not status.get("attempts") or not directory.config.exists():
        return "has not begun"
    if status["state"] not in ("pending", "running"):
        return None
    try:
        # Let go at once: an upload must not keep the run's next attempt from beginning.
        with directory.lock():
            return None
    except BusyError:
        return "a process works on it"


def _config(directory: RunDirectory) -> dict[str, Any]:
    config = yaml.safe_load(directory.config.read_text())
    if not isinstance(config, dict):
        raise SyncError(f"{directory.config.name} is not the config of a run; put the file back")
    return config


def _account(tracker: Any) -> dict[str, Any]:
    """Project, entity and tags, if W&B was the run's own tracker."""
    if not isinstance(tracker, dict) or tracker.get("_target_") != WANDB:
        return {}
    return {key: tracker.get(key) for key in ("project", "entity", "tags")}
