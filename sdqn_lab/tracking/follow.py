"""``python -m sdqn_lab.tracking.follow RUN_DIR``: tells a run's tracker what its record says.

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
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path

from sdqn_lab.tracking.deliver import complete_lines, deliver
from sdqn_lab.tracking.run_directory import TRACKER_LOCK, BusyError, RunDirectory
from sdqn_lab.tracking.tracker import TrackedRun, Tracker, later, one_line, tracked_run

PACKAGE = "sdqn_lab.tracking."
WARNING = "WARNING"
GLANCE_SECONDS = 1.0
PATIENCE_SECONDS = 15.0
"""How long a run that has ended waits for its last lines to arrive."""
END_SECONDS = 300
"""What the follower gets after the attempt's end, whatever it hangs on."""
SHIELDED = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
"""Meant for the run; a scheduler sends them to every process of a job."""


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
        words = [str(directory.path.absolute()), "--tracker", target]
        try:
            with directory.tracker_log.open("ab") as log:
                self._seen = log.tell()
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "sdqn_lab.tracking.follow", *words],
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
        for line in self._new_lines():
            if line.startswith(WARNING):
                self._warned = True
                self._say(line)
        if code and not self._warned:
            self._warn(f"the tracker's process ended with code {code}; see tracker.log")

    def finish(self) -> None:
        """The attempt's last line is written and ``status.json`` says how it ended."""
        if self._process is None or self._process.stdin is None:
            return
        self._process.stdin.close()
        try:
            self._process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self._warn(f"the tracker is not done, and has {END_SECONDS // 60} minutes more")
        self.news()

    def _new_lines(self) -> list[str]:
        try:
            with self._directory.tracker_log.open("rb") as log:
                log.seek(self._seen)
                lines = complete_lines(log)
                self._seen = log.tell()
        except OSError:
            return []
        return [line.decode(errors="replace") for line in lines]

    def _warn(self, reason: str) -> None:
        self._warned = True
        name = self._directory.path.name
        self._say(f"{WARNING} {name}: {reason}; {later(self._directory.path)}")


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
    threading.Thread(target=_await_end, args=(over,), daemon=True).start()
    told = tell(
        RunDirectory(args.run_dir),
        partial(print, flush=True),
        trusted=args.tracker,
        ended=lambda: over.wait(GLANCE_SECONDS),
    )
    if not told:
        sys.stderr.flush()
        os._exit(1)  # what the tracker left behind cannot keep the process
    return 0


def tell(
    directory: RunDirectory,
    say: Callable[[str], None],
    *,
    trusted: str | None = None,
    ended: Callable[[], bool] = lambda: True,
) -> bool:
    """Deliver a run's record to its own tracker; whatever goes wrong is one line.

    Args:
        directory: the run's, whose attempt has begun.
        say: shows a person that line.
        trusted: a class that ``config.yaml`` may name beside those of the package.
        ended: waits for a moment; whether the attempt has written its last line.

    Returns:
        Whether the tracker has everything.
    """
    warn = _first_only(lambda reason: say(f"{WARNING} {directory.path.name}: {reason}"))
    try:
        with _turn(directory):
            run = tracked_run(directory, warn)
            deliver(directory, run, _tracker(run, trusted), ended)
    except Exception as error:  # a tracker may break in any way
        warn(f"{type(error).__name__}: {one_line(error)}; {later(directory.path)}")
        traceback.print_exc()
        return False
    return True


def _await_end(over: threading.Event) -> None:
    """Notice the end even while the tracker hangs; the alarm then ends the process for good."""
    sys.stdin.buffer.read()
    signal.alarm(END_SECONDS)
    over.set()


def _first_only(say: Callable[[str], None]) -> Callable[[str], None]:
    """What went wrong first is told; the rest follows from it."""
    told = threading.Event()

    def warn(reason: str) -> None:
        if not told.is_set():
            told.set()
            say(reason)

    return warn


@contextmanager
def _turn(directory: RunDirectory) -> Iterator[None]:
    """Wait until no other process tells of the run: an earlier attempt's, or an upload."""
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(directory.lock(TRACKER_LOCK))
                break
            except BusyError:
                time.sleep(GLANCE_SECONDS)
        yield


def _tracker(run: TrackedRun, trusted: str | None) -> Tracker:
    """What ``config.yaml`` names, without importing just anything that it may name.

    Raises:
        ValueError: the class is neither of this package nor the one that the caller trusts.
    """
    if run.tracker != trusted and not run.tracker.startswith(PACKAGE):
        raise ValueError(f"config.yaml names {run.tracker}; write --tracker {run.tracker}")
    module, _, name = run.tracker.rpartition(".")
    made = getattr(import_module(module), name)(**run.settings)
    if not isinstance(made, Tracker):
        raise ValueError(f"{run.tracker} is not derived from {Tracker.__module__}.Tracker")
    return made


if __name__ == "__main__":
    sys.exit(main())
