"""`python -m sdqn_lab.tracking.follow RUN_DIR`: gives a run's tracker what its record says.

A process of its own, started by the run and tied to it by its standard input alone: whose end is
the end of the attempt, whether it closed the pipe or died. Nothing that happens here reaches the
training: it may start slowly, hang, crash or be killed.
"""

import argparse
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path

from sdqn_lab.checks.refused import Refused
from sdqn_lab.runs.directory import TRACKER_LOCK, RunDirectory
from sdqn_lab.tracking.deliver import complete_lines, deliver
from sdqn_lab.tracking.tracker import TrackedRun, Tracker, brief, later

PACKAGE = "sdqn_lab.tracking."
WARNING = "WARNING"
POLL_SECONDS = 1.0
# How long a run that has ended waits for its last lines to arrive.
PATIENCE_SECONDS = 15.0
# What the follower gets after the attempt's end, whatever it hangs on.
END_SECONDS = 300
# Meant for the run; a scheduler sends them to every process of a job.
SHIELDED = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")


class Follower:
    """The run's hold on the process that follows it; no method raises or waits for the tracker.

    Args:
        directory: the run's, whose attempt has begun.
        target: the class of its tracker, which the process may import.
        say: shows a person one line.
    """

    def __init__(self, directory: RunDirectory, target: str, say: Callable[[str], None]) -> None:
        self._directory, self._say = directory, say
        self._warned = False
        self._process: subprocess.Popen[bytes] | None = None
        arguments = [str(directory.path.absolute()), "--tracker", target]
        try:
            # A file and no pipe: the process outlives the run, and then nobody would read one.
            with directory.tracker_log.open("ab") as log:
                self._seen = log.tell()
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "sdqn_lab.tracking.follow", *arguments],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,  # Ctrl-C is meant for the run
                )
        except OSError as error:
            self._warn(f"the tracker's process did not start: {error}")

    def news(self) -> None:
        """Pass on what a person should know by now."""
        if self._process is None:
            return
        code = self._process.poll()
        with suppress(OSError), self._directory.tracker_log.open("rb") as log:
            log.seek(self._seen)
            lines = complete_lines(log)
            self._seen = log.tell()
            for line in lines:
                if line.startswith(WARNING.encode()):
                    self._show(line.decode(errors="replace"))
        if code:
            self._warn(f"the tracker's process ended with code {code}; see tracker.log")

    def finish(self) -> None:
        """The attempt's last line is written and `status.json` says how it ended."""
        if self._process is None or self._process.stdin is None:
            return
        self._process.stdin.close()
        try:
            self._process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self._warn(f"the tracker is not done, and has {END_SECONDS // 60} minutes more")
        self.news()

    def _warn(self, reason: str) -> None:
        self._show(warning(self._directory, reason))

    def _show(self, line: str) -> None:
        # What went wrong first; the rest follows from it and stands in `tracker.log`.
        if not self._warned:
            self._warned = True
            self._say(line)


def warning(directory: RunDirectory, reason: str) -> str:
    """The line that a person sees, with what to write."""
    return f"{WARNING} {directory.path.name}: {reason}; {later(directory.path)}"


def main(argv: Sequence[str] | None = None) -> int:
    """Follow the run until its attempt has ended; 0 if its tracker has everything."""
    parser = argparse.ArgumentParser(prog="python -m sdqn_lab.tracking.follow", description=__doc__)
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR")
    what = "the class that config.yaml may name beside those of the package"
    parser.add_argument("--tracker", metavar="CLASS", help=what)
    args = parser.parse_args(argv)
    for name in SHIELDED:
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    over = threading.Event()

    def await_end() -> None:
        # Noticed even while the tracker hangs; the alarm then ends the process for good.
        sys.stdin.buffer.read()
        # Without a handler: one in Python would wait for the main thread, which may hang.
        signal.alarm(END_SECONDS)
        over.set()

    threading.Thread(target=await_end, daemon=True).start()
    done = follow(
        RunDirectory(args.run_dir),
        partial(print, flush=True),
        trusted=args.tracker,
        ended=lambda: over.wait(POLL_SECONDS),
    )
    if not done:
        sys.stderr.flush()
        os._exit(1)  # what the tracker left behind cannot keep the process
    return 0


def follow(
    directory: RunDirectory,
    say: Callable[[str], None],
    *,
    trusted: str | None = None,
    ended: Callable[[], bool] = lambda: True,
) -> bool:
    """Deliver a run's record to its own tracker; whatever goes wrong becomes a line.

    Args:
        directory: the run's, whose attempt has begun.
        say: shows a person a line.
        trusted: a class that `config.yaml` may name beside those of the package.
        ended: waits for a moment; whether the attempt has written its last line.

    Returns:
        Whether the tracker has everything.
    """
    try:
        # An earlier attempt's follower may be at its last lines, and so may an upload.
        with directory.lock(TRACKER_LOCK, wait=True):
            # Read under the lock: until then the one before may write to `tracker.json`.
            run = TrackedRun.of(directory, lambda reason: say(warning(directory, reason)))
            deliver(directory, run, made(run, trusted), ended)
    except Exception as error:  # a tracker may break in any way
        say(warning(directory, f"{type(error).__name__}: {brief(error)}"))
        traceback.print_exc()
        return False
    return True


def made(run: TrackedRun, trusted: str | None) -> Tracker:
    """What `config.yaml` names, without importing just anything that it may name.

    Raises:
        Refused: the class is neither of this package nor the one that the caller trusts.
    """
    key, target = "tracker._target_", run.tracker
    # Before the import, which alone would run code: a run directory is data.
    if target != trusted and not target.startswith(PACKAGE):
        raise Refused(key, target, "must be a class of sdqn_lab.tracking", f"--tracker {target}")
    module, _, name = target.rpartition(".")
    found = getattr(import_module(module), name)
    if not (isinstance(found, type) and issubclass(found, Tracker)):
        raise Refused(key, target, f"must be derived from {Tracker.__module__}.Tracker")
    return found(**run.settings)


if __name__ == "__main__":
    sys.exit(main())
