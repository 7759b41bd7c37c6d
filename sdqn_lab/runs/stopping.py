"""How a process is asked to stop, and the exit codes that tell how it left."""

import signal
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

GLANCE_SECONDS = 0.1


class StopFlag:
    """Set by a signal, read by a loop at its next step: nothing is saved inside a handler."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    @property
    def requested(self) -> bool:
        """Whether a stop was requested."""
        return self.signal is not None

    def __call__(self) -> bool:
        """Whether a stop was requested."""
        return self.requested

    def wait(self, seconds: float) -> None:
        """Sleep for so long, or until a stop is requested."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.requested:
            time.sleep(GLANCE_SECONDS)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Let the signals set this flag; who listened before listens again afterwards."""
        before = {number: signal.signal(number, self._handle) for number in STOP_SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number)
