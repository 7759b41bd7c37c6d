"""`python -m sdqn_lab.report DIR...`: run directories to tables, figures and one HTML page."""

import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from rich.table import Table as Grid
from rich.text import Text

from sdqn_lab.analysis import wandb_report
from sdqn_lab.analysis.find import compare
from sdqn_lab.analysis.literature import printed, read
from sdqn_lab.analysis.sections.page import sections, write
from sdqn_lab.analysis.sections.section import Section, Table
from sdqn_lab.commands.shell import Parser, answering, output, program
from sdqn_lab.launching.ledger import LedgerError

PRINTED = ("scores", "aggregates", "improvement")
"""Tables that are also printed, each for every suite."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    with answering(LedgerError) as outcome:
        outcome.code = command(argv)
    return outcome.code


def _split(text: str) -> list[str]:
    """Split at commas, but for those of a list in brackets."""
    return [part for part in re.split(r",(?![^\[]*\])", text) if part]


def command(argv: Sequence[str] | None) -> int:
    """What `main` does.

    Raises:
        Refused: an argument is wrong, or there is nothing to compare.
        LedgerError: a sweep's ledger is damaged.
    """
    parser = Parser(prog=program("report"), description=__doc__)
    add = parser.add_argument
    add("dirs", nargs="+", type=Path, metavar="DIR", help="directories of sweeps or of runs")
    add("--by", type=_split, metavar="KEY,...", help="what distinguishes arms (all that varies)")
    baseline = "the baseline arm (dqn, or X beside pl_X)"
    add("--against", type=_split, metavar="KEY=VALUE,...", help=baseline)
    add("--literature", type=Path, metavar="FILE.csv", help="scores from papers, to stand beside")
    add("--wandb", metavar="ENTITY/PROJECT", help="also save it as a W&B Report there")
    add("--out", type=Path, default=Path("report"), metavar="FOLDER", help="where (report)")
    parser.epilog = "--by sweep,commit compares the same arms before and after a change."
    args = parser.parse_args(argv)
    target = wandb_report.parse_target(args.wandb) if args.wandb else None
    literature = printed() + (read(args.literature) if args.literature else [])
    scores = compare(args.dirs, args.by, args.against)
    parts, title = sections(scores, literature), " and ".join(map(str, args.dirs))
    again = [*map(str, args.dirs)]
    for flag, value in (("--by", args.by), ("--against", args.against)):
        again += [flag, ",".join(value)] if value else []
    again += ["--literature", str(args.literature)] if args.literature else []
    page = write(scores, parts, args.out, title, f"python -m sdqn_lab.report {shlex.join(again)}")
    tables = [table for part in parts for table in part.tables]
    shown = [table for table in tables if table.name.rstrip("-0123456789") in PRINTED]
    _print(shown, parts)
    print(f"report: {page}")
    if target:
        layout = wandb_report.build(scores.comparison, shown, target, title)
        print(f"W&B report: {wandb_report.publish(layout)}")
    return 0


def _print(tables: Sequence[Table], parts: Sequence[Section]) -> None:
    """The tables that say most, and what a reader must know of them."""
    terminal = output()
    for table in tables:
        grid = Grid(title=Text(table.title), title_justify="left", title_style="bold")
        for column in table.shown:
            grid.add_column(Text(str(column)), overflow="fold")
        for row in table.shown.itertuples(index=False):
            grid.add_row(*(Text("" if pd.isna(cell) else str(cell)) for cell in row))
        terminal.print(grid)
    for part in parts:
        if part.name in ("how-sure", "missing"):
            terminal.print(*map(Text, part.remarks), sep="\n", soft_wrap=True)
        for table in part.tables:
            if table.name == "warnings":
                terminal.print(f"warnings in the report: {len(table.shown)}")


if __name__ == "__main__":
    sys.exit(main())
