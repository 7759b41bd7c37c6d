"""A command's frame: its parser, its consoles, and what it answers to what is wrong."""

import argparse
import sys
from collections.abc import Callable
from typing import NoReturn

from rich.console import Console

from sdqn_lab.checks.refused import ConfigError, Refused
from sdqn_lab.runs.stopping import INTERRUPTED

USAGE_ERROR = 2
PLAIN_WIDTH = 160
"""Columns of a table that goes into a file or a pipe."""


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


def answer(command: Callable[[], int], *failures: type[Exception]) -> int:
    """Carry out a command.

    Args:
        command: what it does; returns its exit code.
        failures: further exceptions that are answered by their text, without a traceback.

    Returns:
        The exit code: the command's own, 2 where it was refused, 130 after Ctrl-C.
    """
    try:
        return command()
    except ConfigError as error:
        lines = [str(refusal) for refusal in error.problems]
    except (Refused, *failures) as error:  # type: ignore[misc]
        lines = [str(error)]
    except KeyboardInterrupt:
        console().print("interrupted")
        return INTERRUPTED
    for line in lines:
        console().print(f"error: {line}", soft_wrap=True)
    return USAGE_ERROR
