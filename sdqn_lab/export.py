"""`python -m sdqn_lab.export RUN_DIR --nir FILE`: a trained network for neuromorphic tools."""

import sys
from collections.abc import Sequence
from pathlib import Path

from sdqn_lab.checks.refused import ConfigError
from sdqn_lab.commands.shell import Parser, answering, console, output, program
from sdqn_lab.exporting.request import Request, mistakes
from sdqn_lab.play import exit_on_sigterm
from sdqn_lab.watching.request import whole


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    with answering(FileNotFoundError) as outcome:
        outcome.code = export(argv)
    return outcome.code


def export(argv: Sequence[str] | None) -> int:
    """Carry out a command line; None: the process's own.

    Raises:
        ConfigError: it, or the run, is wrong.
        Refused: they do not go together.
        FileNotFoundError: there is no trained run.
    """
    request = parse(argv)
    # Torch takes seconds to load, and a mistyped option should not wait for it.
    from sdqn_lab.exporting.session import Session

    Session(request, output(), console()).export()
    return 0


def parse(argv: Sequence[str] | None) -> Request:
    """Read a command line.

    Raises:
        Refused: it is no command line.
        ConfigError: with all that is wrong in it.
    """
    parser = Parser(prog=program("export"), description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("run_dir", type=Path, metavar="RUN_DIR", help="of a run that was evaluated at least once")
    add("--nir", type=Path, required=True, metavar="FILE", help="the graph, .nir (HDF5)")
    add("--network", default="last", metavar="WHICH", help="last (default) or best")
    help_fix = "fix PopNorm's statistics to those of N observations, and play with both networks"
    add("--calibrate-norm", type=whole, metavar="N", help=help_fix)
    help_episodes = "to compare the two; default: as many as the protocol says"
    add("--episodes", type=whole, metavar="E", help=help_episodes)
    add("--trust", action="store_true", help="import what its config names outside sdqn_lab")
    request = parser.parse_args(argv, Request())
    if problems := list(mistakes(request)):
        raise ConfigError(problems)
    return request


if __name__ == "__main__":
    exit_on_sigterm()
    sys.exit(main())
