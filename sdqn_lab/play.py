"""`python -m sdqn_lab.play RUN_DIR`: watch a trained agent; score it, show it, vary its T."""

import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from sdqn_lab.checks.refused import ConfigError
from sdqn_lab.commands.shell import Parser, answering, console, output, program
from sdqn_lab.runs.stopping import PREEMPTED_EXIT
from sdqn_lab.watching.request import Request, mistakes, whole, whole_list


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    with answering(FileNotFoundError) as outcome:
        outcome.code = play(argv)
    return outcome.code


def play(argv: Sequence[str] | None) -> int:
    """Carry out a command line; None: the process's own.

    Raises:
        ConfigError: it, or the run, is wrong.
        Refused: they do not go together.
        FileNotFoundError: there is no trained run.
    """
    request = parse(argv)
    # Torch takes seconds to load, and a mistyped option should not wait for it.
    from sdqn_lab.watching.session import Session

    session = Session(request, output(), console())
    if request.time_windows:
        session.compare()
    else:
        session.watch()
    return 0


def parse(argv: Sequence[str] | None) -> Request:
    """Read a command line.

    Raises:
        Refused: it is no command line.
        ConfigError: with all that is wrong in it.
    """
    parser = Parser(prog=program("play"), description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("run_dir", type=Path, metavar="RUN_DIR", help="of a run that was evaluated at least once")
    add("--episodes", type=whole, metavar="E", help="default: as many as the protocol says")
    add("--which", default="last", help="last (default) or best: the network to play with")
    add("--protocol", metavar="NAME", help="one of conf/protocol; default: the run's own")
    add("--seed", type=whole, metavar="N", help="of games and exploration; default: the run's own")
    add("--time-window", type=whole, metavar="T", help="steps per decision; default: the run's own")
    add("--video", type=Path, metavar="FILE", help="the first episode as .mp4 or .gif")
    add("--raster", action="store_true", help="with spikes, firing rates and Q-values beside it")
    help_several = "score, firing and energy against T, a figure"
    add("--time-windows", type=whole_list, metavar="T,T,...", help=help_several)
    add("--out", type=Path, metavar="FILE.png", help="default: time_windows.png in RUN_DIR")
    add("--trust", action="store_true", help="import what its config names outside sdqn_lab")
    request = parser.parse_args(argv, Request())
    if problems := list(mistakes(request)):
        raise ConfigError(problems)
    return request


def exit_on_sigterm() -> None:
    """Let SIGTERM end this process as an exception does: what is half written is taken away."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(PREEMPTED_EXIT))


if __name__ == "__main__":
    exit_on_sigterm()
    sys.exit(main())
