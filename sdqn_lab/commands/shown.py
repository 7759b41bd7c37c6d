"""What Hydra itself answers: its flags that show something, and the completion of a shell."""

import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import hydra

from sdqn_lab.checks.refused import Refused
from sdqn_lab.commands.shell import SCRIPT
from sdqn_lab.config.schema import conf_dir

COMPLETION = "--shell-completion"
PATHS = ("--resume", "--config-dir", "-cd")
"""Flags that a directory follows."""


def show(arguments: Sequence[str]) -> None:
    """Let Hydra answer a command line that runs nothing.

    Args:
        arguments: its flags and overrides, as Hydra reads them.
    """

    def task(cfg: Any) -> None:
        raise AssertionError("a flag that shows something ran a job")

    before, sys.argv[1:] = sys.argv[1:], arguments
    try:
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(task)()
    finally:
        sys.argv[1:] = before


def install_completion(overrides: Sequence[str]) -> None:
    """Print what a shell evaluates to complete `sdqn-lab`, or to forget how.

    Args:
        overrides: `install=SHELL` or `uninstall=SHELL`.

    Raises:
        Refused: something else, or the command was called by `python -m`, which no shell completes.
    """
    known = [f"{what}={shell}" for what in ("install", "uninstall") for shell in ("bash", "fish")]
    if len(overrides) != 1 or overrides[0] not in known or Path(sys.argv[0]).stem != SCRIPT:
        given = " ".join([COMPLETION, *overrides])
        rule = f"takes one of {', '.join(known)} and completes the command {SCRIPT} alone"
        raise Refused(given, None, rule, f'eval "$({SCRIPT} run -sc install=bash)"')
    show([COMPLETION, *overrides])


def complete(overrides: Sequence[str], commands: Iterable[str]) -> None:
    """Print what can stand at the end of the command line that a shell has put into `COMP_LINE`.

    Hydra completes the overrides of `run`. The other commands take directories, which the shell
    completes itself where nothing is printed.

    Args:
        overrides: `query=SHELL`.
        commands: of `sdqn-lab`.
    """
    *before, word = os.environ.get("COMP_LINE", "").split(" ")
    words = [each for each in before if each][1:]
    if not words:
        print("\n".join(name for name in commands if name.startswith(word)))
    elif words[0] == "run" and words[-1] not in PATHS and not word.startswith("-"):
        # Hydra reads flags before overrides only, and would answer others with its usage.
        own = [each for each in words[1:] if not each.startswith("-")]
        os.environ["COMP_LINE"] = " ".join([SCRIPT, *own, word])
        show([COMPLETION, *overrides])
