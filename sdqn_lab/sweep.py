"""``python -m sdqn_lab.sweep status | relaunch | cancel | sync SWEEP_DIR``: sweeps under way."""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from sdqn_lab.launching import queue
from sdqn_lab.launching.ledger import Ledger, LedgerError, locked
from sdqn_lab.launching.observe import WRONG, observe
from sdqn_lab.launching.slurm import attend
from sdqn_lab.launching.table import MOST_ROWS, out, table
from sdqn_lab.runs.directory import BusyError, RunDirectory, timestamp
from sdqn_lab.runs.stopping import INTERRUPTED

USAGE_ERROR = 2
console = Console(stderr=True, emoji=False, markup=False, highlight=False)


class CommandError(Exception):
    """A command that cannot be carried out, in a line."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    args = _parser().parse_args(argv)
    try:
        code: int = args.run(args)
        return code
    except (LedgerError, BusyError, queue.SlurmError, CommandError, OSError) as error:
        console.print(f"error: {error}", soft_wrap=True)
        return USAGE_ERROR
    except KeyboardInterrupt:
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sdqn_lab.sweep", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, what: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=what, description=what)
        command.add_argument("sweep_dir", type=Path, metavar="SWEEP_DIR")
        return command

    status = add("status", "show every cell: state, progress, ETA, last return, what went wrong")
    status.add_argument("--all", action="store_true", help="show all rows, however many")
    status.add_argument("--json", action="store_true", help="one JSON object, for programs")
    status.add_argument("--watch", action="store_true", help="stay until nothing more will happen")
    status.set_defaults(run=_status)
    relaunch = add("relaunch", "start again what is missing, failed, stopped or lost, nothing else")
    relaunch.add_argument(
        "overrides",
        nargs="*",
        metavar="OVERRIDE",
        help="hydra/launcher=NAME and hydra.launcher.KEY=VALUE; all others stay as they were",
    )
    relaunch.add_argument(
        "--trust",
        action="store_true",
        help="import what the cells' configs name outside sdqn_lab, whoever named it",
    )
    relaunch.set_defaults(run=_relaunch)
    add("cancel", "let all cells save and stop").set_defaults(run=_cancel)
    what = "upload to W&B what its server lacks, from the cells' own records; of one run, too"
    sync = add("sync", what)
    sync.set_defaults(run=_sync)
    return parser


def _status(args: argparse.Namespace) -> int:
    """0 if nothing went wrong so far, 1 if a cell failed or was lost."""
    seen = attend(args.sweep_dir, 10.0) if args.watch else observe(args.sweep_dir)
    if args.json:
        import json

        cells = [asdict(report) for report in seen.reports]
        print(json.dumps({"problem": seen.problem, "cells": cells}, default=str, indent=1))
    else:
        out().print(table(seen, len(seen.reports) if args.all else MOST_ROWS))
    return 1 if seen.count(*WRONG) else 0


def _relaunch(args: argparse.Namespace) -> int:
    # Imported here: composing knows torch, and looking at a sweep should be quick.
    from sdqn_lab.checks.refused import ConfigError
    from sdqn_lab.launching.relaunch import relaunch

    try:
        return relaunch(args.sweep_dir, args.overrides, args.trust)
    except ConfigError as error:
        for problem in error.problems:
            console.print(f"error: {problem}", soft_wrap=True)
        return USAGE_ERROR


def _cancel(args: argparse.Namespace) -> int:
    ledger = Ledger.read(args.sweep_dir)
    local = [s for s in ledger.submissions if s.launcher == "local" and not s.ended]
    alive = [s for s in local if s.alive]
    for submission in alive:
        os.kill(submission.pid, signal.SIGTERM)
    jobs = _active_jobs(ledger)
    if jobs:
        with locked(args.sweep_dir):
            _cancel_jobs(args.sweep_dir, jobs)
    if not jobs and not alive:
        if other := [s.host for s in local if s.elsewhere]:
            raise CommandError(f"{args.sweep_dir}: started on {other[-1]}; write the command there")
        console.print(f"{args.sweep_dir}: nothing of it is running or waiting here")
        return 0
    console.print(
        f"asked {len(jobs)} jobs and {len(alive)} local launchers to stop; cells save and leave; "
        f"python -m sdqn_lab.sweep relaunch {args.sweep_dir} goes on",
        soft_wrap=True,
    )
    return 0


def _cancel_jobs(sweep_dir: Path, jobs: list[str]) -> None:
    queue.slurm("scancel", *jobs)
    ledger = Ledger.read(sweep_dir)
    for submission in ledger.submissions:
        if not submission.jobs.keys().isdisjoint(jobs):
            submission.cancelled = timestamp()
    ledger.write(sweep_dir)


def _active_jobs(ledger: Ledger) -> list[str]:
    ours = {job: s.job_name for s in ledger.submissions for job in s.jobs}
    if not ours:
        return []
    known = queue.jobs(name for name in ours.values() if name)
    return [
        j for j, name in ours.items() if j in known and known[j].active and known[j].name == name
    ]


def _sync(args: argparse.Namespace) -> int:
    """0 if everything is there now, 1 if a cell could not be uploaded."""
    # Imported here: the client takes its time to load.
    from sdqn_lab.tracking.sync import sync_run
    from sdqn_lab.tracking.wandb import NoConnectionError, SyncError

    failed = 0
    for directory in _runs(args.sweep_dir):
        try:
            sync_run(directory, _say)
        except NoConnectionError as error:
            raise CommandError(str(error)) from error
        except SyncError as error:
            _say(f"error: {error}")
            failed += 1
        except KeyboardInterrupt:
            os._exit(INTERRUPTED)  # the client would wait for its server, and dies with this
    return 1 if failed else 0


def _runs(folder: Path) -> list[RunDirectory]:
    """The cells of a sweep, or the one run that a directory holds."""
    single = RunDirectory(folder)
    if single.config.exists():
        return [single]
    return [RunDirectory(folder / name) for name in Ledger.read(folder).cells]


def _say(line: str) -> None:
    console.print(line, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
