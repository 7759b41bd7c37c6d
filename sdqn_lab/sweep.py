"""`python -m sdqn_lab.sweep status | relaunch | cancel | sync SWEEP_DIR`: sweeps under way."""

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from sdqn_lab.checks.extras import WANDB
from sdqn_lab.commands.shell import USAGE_ERROR, Parser, answering, console, output, program
from sdqn_lab.launching.cancel import cancel_cells
from sdqn_lab.launching.ledger import Ledger, LedgerError
from sdqn_lab.launching.observe import WRONG, observe
from sdqn_lab.launching.queue import SlurmError
from sdqn_lab.launching.slurm import watch
from sdqn_lab.launching.table import MAX_ROWS, table
from sdqn_lab.runs.directory import BusyError, RunDirectory
from sdqn_lab.runs.stopping import INTERRUPTED


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    with answering(LedgerError, BusyError, SlurmError, OSError) as outcome:
        args = arguments(argv)
        outcome.code = args.run(args)
    return outcome.code


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; `run` carries the command out."""
    parser = Parser(prog=program("sweep"), description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for run in (status, relaunch, cancel, sync):
        what = str(run.__doc__).splitlines()[0]
        command = commands.add_parser(run.__name__, help=what, description=what)
        command.set_defaults(run=run)
        command.add_argument("sweep_dir", type=Path, metavar="SWEEP_DIR")
        if run is status:
            command.add_argument("--all", action="store_true", help="show all rows, however many")
            command.add_argument("--json", action="store_true", help="one JSON object")
            command.add_argument("--watch", action="store_true", help="stay while anything happens")
        elif run is relaunch:
            own = "hydra/launcher=NAME, hydra.launcher.KEY=VALUE, or a longer budget.steps=N"
            command.add_argument("overrides", nargs="*", metavar="OVERRIDE", help=own)
            trusting = "import what the cells' configs name outside sdqn_lab"
            command.add_argument("--trust", action="store_true", help=trusting)
    # argparse takes no overrides behind a flag where there are subcommands.
    args, others = parser.parse_known_args(argv)
    if others and (args.run is not relaunch or any(word.startswith("-") for word in others)):
        parser.error(f"unrecognized arguments: {' '.join(others)}")
    if others:
        args.overrides += others
    return args


def status(args: argparse.Namespace) -> int:
    """Show every cell: state, progress, ETA, last return, what went wrong."""
    seen = watch(args.sweep_dir, 10.0) if args.watch else observe(args.sweep_dir)
    if args.json:
        cells = [asdict(report) for report in seen.reports]
        print(json.dumps({"problem": seen.problem, "cells": cells}, default=str, indent=1))
    else:
        output().print(table(seen, len(seen.reports) if args.all else MAX_ROWS))
    return 1 if seen.count(*WRONG) else 0


def relaunch(args: argparse.Namespace) -> int:
    """Start again what is missing, failed, stopped or lost, nothing else."""
    # Imported here: composing needs torch, and looking at a sweep should be quick.
    from sdqn_lab.launching.relaunch import relaunch as start_again

    return start_again(args.sweep_dir, args.overrides, args.trust)


def cancel(args: argparse.Namespace) -> int:
    """Let all cells save and stop."""
    console().print(cancel_cells(args.sweep_dir), soft_wrap=True)
    return 0


def sync(args: argparse.Namespace) -> int:
    """Upload to W&B what its server lacks, from the cells' own records; of one run, too."""
    WANDB.demand("sync")
    # Imported here: the client takes its time to load.
    from sdqn_lab.tracking.sync import sync_run
    from sdqn_lab.tracking.wandb import NoConnectionError, SyncError

    def say(line: str) -> None:
        console().print(line, soft_wrap=True)

    failed, folder = False, args.sweep_dir
    single = RunDirectory(folder).config.exists()
    # At once: the client would wait for its server or swallow the interrupt, and dies with this.
    before = signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    try:
        for directory in [folder] if single else map(folder.joinpath, Ledger.read(folder).cells):
            try:
                sync_run(RunDirectory(directory), say)
            except NoConnectionError as error:
                say(f"error: {error}")
                return USAGE_ERROR
            except SyncError as error:
                say(f"error: {error}")
                failed = True
    finally:
        signal.signal(signal.SIGINT, before)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
