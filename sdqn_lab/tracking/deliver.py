"""Hands `metrics.jsonl` to a tracker: while the run goes on, or later."""

import json
from collections.abc import Callable
from io import BytesIO
from typing import BinaryIO, NamedTuple

from sdqn_lab.runs.directory import RunDirectory
from sdqn_lab.runs.files import write_json
from sdqn_lab.tracking.tracker import TrackedRun, Tracker

EXIT_CODES = {"finished": 0, "failed": 1}
# Stopped, killed or still running: the run may go on later.
UNFINISHED = 143


class Delivered(NamedTuple):
    """Lines of `metrics.jsonl`."""

    sent: int
    present: int
    """Those that the tracker had already."""


def deliver(
    directory: RunDirectory,
    run: TrackedRun,
    tracker: Tracker,
    ended: Callable[[], bool] = lambda: True,
) -> Delivered:
    """Give a tracker every line that it lacks, until the attempt has ended and none is left.

    The caller holds the tracker's lock. How far it came is kept in `tracker.json`.

    Args:
        directory: the run's.
        run: what the tracker knows of it.
        tracker: not opened yet.
        ended: waits for a moment; whether the attempt has written its last line.
    """
    wanted, count, offset, last = tracker.open(run), 0, 0, False

    def note(exit_code: int | None) -> None:
        # A record that was cut is shorter than what the tracker has, which must not get it twice.
        lines = max(count, wanted)
        known = {"attempt": run.attempt, "lines": lines, "bytes": offset, "exit_code": exit_code}
        write_json(directory.tracker_file, {**directory.delivered(), run.tracker: known})

    def superseded() -> bool:
        return len(directory.status().get("attempts", [])) != run.attempt

    with directory.metrics.open("rb") if directory.metrics.exists() else BytesIO() as file:
        while not last:
            last = ended()  # asked before reading: no line can come in between
            lines = complete_lines(file)
            # A continued run cuts its record, and a process of its own reads it from there.
            if superseded():
                break
            for line in lines:
                if count >= wanted:
                    tracker.log(count, json.loads(line))
                count += 1
            if lines:
                offset = file.tell()
                note(None)
    # An attempt that was followed by another did not finish.
    state = None if superseded() else directory.state
    exit_code = EXIT_CODES.get(str(state), UNFINISHED)
    tracker.close(exit_code)
    note(exit_code)
    present = min(wanted, count)
    return Delivered(count - present, present)


def complete_lines(file: BinaryIO) -> list[bytes]:
    """What was appended since the last call; a line torn by a crash stays for the next one."""
    begin, data = file.tell(), file.read()
    end = data.rfind(b"\n") + 1
    file.seek(begin + end)
    return data[:end].splitlines()
