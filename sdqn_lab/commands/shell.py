"""A command's frame: its parser, its consoles, and what it answers to what is wrong."""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from rich.console import Console

from sdqn_lab.checks.refused import ConfigError, Refused
from sdqn_lab.runs.stopping import INTERRUPTED

SCRIPT = "sdqn-lab"
"""The console script, which takes the commands' names."""
USAGE_ERROR = 2
PLAIN_WIDTH = 160
"""Columns of a table that goes into a file or a pipe."""


def program(command: str) -> str:
    """How this process's command was called, for its help: `sdqn-lab run`, or by `python -m`."""
    called = Path(sys.argv[0])
    if called.stem == SCRIPT:
        return f"{SCRIPT} {command}"
    whole = called.parts[-2:] == ("sdqn_lab", "__main__.py")
    return f"python -m sdqn_lab{' ' if whole else '.'}{command}"


def console(terminal: bool | None = None) -> Console:
    """The console for messages, on stderr.

    Names and values are shown as they are: rich would turn `device=cuda:x` into an emoji.
    """
    return Console(stderr=True, emoji=False, markup=False, highlight=False, force_terminal=terminal)


def output() -> Console:
    """The console for results, on stdout; as wide as its terminal, if it has one."""
    width = None if sys.stdout.isatty() else PLAIN_WIDTH
    return Console(width=width, emoji=False, markup=False, highlight=False)


class Parser(argparse.ArgumentParser):
    """Refuses an argument in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        """Raise the line as a `Refused`."""
        raise Refused(message, None, "write --help for what there is")


@dataclass
class Outcome:
    """How a command ended: `code` is what it exits with, 2 as long as nobody says another."""

    code: int = USAGE_ERROR


@contextmanager
def answering(*failures: type[Exception]) -> Iterator[Outcome]:
    """Show what is refused inside, in a line each, instead of a traceback.

    Args:
        failures: further exceptions that are answered by their text alone.

    Yields:
        The outcome; its code is 130 after Ctrl-C.
    """
    outcome, lines = Outcome(), list[str]()
    try:
        yield outcome
    except ConfigError as error:
        lines = [str(refusal) for refusal in error.problems]
    except (Refused, *failures) as error:  # type: ignore[misc]
        lines = [str(error)]
    except KeyboardInterrupt:
        console().print("interrupted")
        outcome.code = INTERRUPTED
    for line in lines:
        console().print(f"error: {line}", soft_wrap=True)
