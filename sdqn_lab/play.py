"""`python -m sdqn_lab.play RUN_DIR`: watch a trained agent; score it, show it, vary its T."""

import signal
import sys
from collections.abc import Iterable, Sequence

from rich.console import Console

from sdqn_lab.checks.refused import Refused
from sdqn_lab.launching.table import out
from sdqn_lab.runs.stopping import INTERRUPTED, PREEMPTED_EXIT
from sdqn_lab.watching.request import CommandError, parse

USAGE_ERROR = 2
console = Console(stderr=True, emoji=False, markup=False, highlight=False)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    try:
        request = parse(argv)
        # Torch takes seconds to load, and a mistyped option should not wait for it.
        from sdqn_lab.watching.session import Session

        session = Session(request, out(), console)
        if request.time_windows:
            session.compare()
        else:
            session.watch()
    except CommandError as error:
        return refused(error.problems)
    except (Refused, FileNotFoundError) as error:
        return refused([error])
    except KeyboardInterrupt:
        console.print("interrupted")
        return INTERRUPTED
    return 0


def refused(problems: Iterable[object]) -> int:
    """Print a line for each thing that is wrong; returns the exit code."""
    for problem in problems:
        console.print(f"error: {problem}", soft_wrap=True)
    return USAGE_ERROR


def exit_on_sigterm() -> None:
    """Let SIGTERM end this process as an exception does: what is half written is taken away."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(PREEMPTED_EXIT))


if __name__ == "__main__":
    exit_on_sigterm()
    sys.exit(main())
