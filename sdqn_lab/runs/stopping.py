"""How a process is asked to stop, and the exit codes that say how it ended."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
PREEMPTED_EXIT = 143
"""Stopped by a signal, state saved."""
INTERRUPTED = 130
"""Ctrl-C before anything was started."""
BUSY_EXIT = 75
"""Another process works on the run; try again later."""

POLL_INTERVAL_SECONDS = 0.1
INSIST_AFTER_SECONDS = 1.0
"""A second signal that comes sooner is the first one, sent by a scheduler and by a launcher."""


class StopNow(BaseException):
    """A further signal: nobody waits for the state to be saved.

    It is no `Exception`, so that the handler of an environment's own errors lets it pass.
    """


class StopFlag:
    """Set by a signal, read by a loop at its next step: nothing is saved inside a handler.

    Args:
        insist: a further signal raises `StopNow` where the process stands, e.g. in an environment
            that hangs.
    """

    def __init__(self, *, insist: bool = False) -> None:
        self.signal: signal.Signals | None = None
        self._insist, self._times = insist, list[float]()

    @property
    def requested(self) -> bool:
        """Whether a stop was requested."""
        return self.signal is not None

    def __call__(self) -> bool:
        """Whether a stop was requested."""
        return self.requested

    def wait(self, seconds: float) -> None:
        """Sleep for so long, or until a stop is requested."""
        # In naps, because a sleep goes on after a signal's handler has returned.
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.requested:
            time.sleep(POLL_INTERVAL_SECONDS)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Let the signals set this flag; who listened before listens again afterwards."""
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread gets signals
            return
        before = {number: signal.signal(number, self._handle) for number in STOP_SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number)
        now = time.monotonic()
        again = bool(self._times) and now - self._times[0] >= INSIST_AFTER_SECONDS
        self._times.append(now)
        # A scheduler and a launcher make two signals of one request at most, never three.
        if self._insist and (again or len(self._times) > 2):
            raise StopNow
