"""Runs brought to W&B from their own records, after whatever happened to their attempts.

The reader is the one that follows a run while it trains, started later. It runs where nothing is
installed but the client: on a login node. What the config names is not imported.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

from sdqn_lab.runs.directory import TRACKER_LOCK, BusyError, RunDirectory
from sdqn_lab.tracking.deliver import Delivered, deliver
from sdqn_lab.tracking.tracker import TrackedRun, brief
from sdqn_lab.tracking.wandb import SyncError, Upload

WANDB = "sdqn_lab.tracking.wandb.WandB"
# Keys of the run's own tracker that say where it belongs and what it is.
KEPT = ("project", "entity", "tags", "notes", "job_type")


def sync_run(
    directory: RunDirectory,
    say: Callable[[str], None],
    *,
    init_timeout_seconds: float = 30.0,
    finish_timeout_seconds: float = 600.0,
) -> Delivered | None:
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
        KeyboardInterrupt: the client is still there, and an ordinary exit would wait for it.
    """
    name, why_not, synced = directory.path.name, "", None
    try:
        status = directory.status()
        if not status.get("attempts") or not directory.config.exists():
            why_not = "has not begun"
        # A run that was killed stays "running" in its file; only the lock tells it from a live one.
        elif status["state"] in ("pending", "running") and directory.is_held():
            why_not = "a process works on it"
        else:
            # Of the run's own lock nothing is held: its next attempt may begin meanwhile.
            with directory.lock(TRACKER_LOCK):
                synced = upload(directory, init_timeout_seconds, finish_timeout_seconds)
    except BusyError:
        why_not = "its tracker is still delivering"
    except SyncError as error:
        raise type(error)(f"{directory.path}: {error}") from error
    except Exception as error:  # damaged files, a client that died: the caller gets one line
        raise SyncError(f"{directory.path}: {brief(error)}") from error
    if synced is None:
        say(f"{name}: {why_not}, skipped")
    else:
        say(f"{name}: {synced.sent:,} records uploaded, {synced.present:,} were there")
    return synced


def upload(directory: RunDirectory, init_seconds: float, finish_seconds: float) -> Delivered:
    """Bring a run that nobody works on to the server; the caller holds the tracker's lock.

    Raises:
        SyncError: as `sync_run`.
    """
    run = TrackedRun.of(directory, lambda _: None, WANDB)
    kept = {key: run.settings.get(key) for key in KEPT}
    kept |= {"init_timeout_seconds": init_seconds, "finish_timeout_seconds": finish_seconds}
    with tempfile.TemporaryDirectory(prefix="sdqn_lab-", ignore_cleanup_errors=True) as scratch:
        tracker = Upload(Path(scratch), **kept)
        try:
            return deliver(directory, run, tracker)
        except Exception:
            tracker.teardown()
            raise
