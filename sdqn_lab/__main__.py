"""`sdqn-lab COMMAND`, or `python -m sdqn_lab COMMAND`: all commands under one name."""

import runpy
import sys
from collections.abc import Sequence

from sdqn_lab.checks.refused import Refused, alternatives
from sdqn_lab.commands.shell import answering, program

COMMANDS = {
    "run": "train one cell, or a sweep with -m; go on with --resume RUN_DIR",
    "sweep": "status | relaunch | cancel | sync SWEEP_DIR",
    "report": "tables, figures and one page of sweeps and runs",
    "play": "a trained agent: score, video, time windows",
    "export": "a trained network as a NIR graph for neuromorphic tools",
    "bench": "speed, side by side",
}
"""Each is a module beside this one."""


def main(argv: Sequence[str] | None = None) -> int:
    """Carry out a command line; returns the exit code.

    Raises:
        SystemExit: with the exit code of a command.
    """
    name, *rest = [*(sys.argv[1:] if argv is None else argv)] or ["--help"]
    if name in ("-h", "--help"):
        print(page())
        return 0
    with answering() as outcome:
        if name in ("-sc", "--shell-completion"):
            # Imported here: it loads Hydra, which a list of commands does without.
            from sdqn_lab.commands.shown import complete

            complete(rest, COMMANDS)
            outcome.code = 0
        elif name in COMMANDS:
            # As `python -m sdqn_lab.NAME`, with all that it does in a process of its own.
            sys.argv[1:] = rest
            runpy.run_module(f"sdqn_lab.{name}", run_name="__main__")
        else:
            rule = f"no such command; {alternatives(name, COMMANDS, 'commands')}"
            raise Refused(name, None, rule)
    return outcome.code


def page() -> str:
    """The commands, as they are called."""
    lines = [f"  {program(f'{name:<8}')}{what}" for name, what in COMMANDS.items()]
    first = f"  {program('run')} env=minatar_breakout budget=smoke tracker=none"
    head = "sdqn_lab: a laboratory for spiking deep reinforcement learning"
    foot = "--help behind each says more. A first run of a minute:"
    return "\n".join([head, "", *lines, "", foot, first])


if __name__ == "__main__":
    sys.exit(main())
