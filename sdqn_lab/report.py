"""``python -m sdqn_lab.report DIR...``: run directories to tables, figures and one HTML page."""

import argparse
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table as Grid

from sdqn_lab.analysis import wandb
from sdqn_lab.analysis.comparison import Comparison, ComparisonError, Notice
from sdqn_lab.analysis.literature import LiteratureError, printed, read
from sdqn_lab.analysis.report.section import Section
from sdqn_lab.analysis.report.write import sections, write
from sdqn_lab.analysis.run import Run
from sdqn_lab.analysis.scores import Scores
from sdqn_lab.analysis.tables import Table
from sdqn_lab.launching.ledger import FILE as LEDGER
from sdqn_lab.launching.ledger import Ledger, LedgerError
from sdqn_lab.launching.observe import observe
from sdqn_lab.launching.table import out as tables_out
from sdqn_lab.runs.stopping import INTERRUPTED

USAGE_ERROR = 2
PRINTED = ("scores", "aggregates", "improvement")
"""Tables that the command also prints."""
console = Console(stderr=True, emoji=False, markup=False, highlight=False)


class CommandError(Exception):
    """A command that cannot be carried out, in a line."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    args = _parser().parse_args(argv)
    try:
        return _report(args)
    except (
        CommandError,
        ComparisonError,
        LiteratureError,
        LedgerError,
        wandb.ReportError,
    ) as error:
        console.print(f"error: {error}", soft_wrap=True)
        return USAGE_ERROR
    except KeyboardInterrupt:
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sdqn_lab.report", description=__doc__)
    add = parser.add_argument
    add("dirs", nargs="+", type=Path, metavar="DIR", help="directories of sweeps or of runs")
    add("--by", type=_words, metavar="KEY,...", help="what tells arms apart (all that varies)")
    add("--against", type=_words, metavar="KEY=VALUE,...", help="the baseline arm (the DQN)")
    add("--literature", type=Path, metavar="FILE.csv", help="scores from papers, to stand beside")
    add("--wandb", metavar="ENTITY/PROJECT", help="also save it as a W&B Report there")
    add("--out", type=Path, default=Path("report"), metavar="FOLDER", help="where (report)")
    return parser


def _words(text: str) -> list[str]:
    """Split at commas, but for those of a list in brackets."""
    return [word for word in re.split(r",(?![^\[]*\])", text) if word]


def _report(args: argparse.Namespace) -> int:
    target = wandb.parse_target(args.wandb) if args.wandb else None
    literature = printed() + (read(args.literature) if args.literature else [])
    scores = compare(args.dirs, args.by, args.against)
    parts, title = sections(scores, literature), _title(args.dirs)
    try:
        page = write(title, _subtitle(scores, args), parts, args.out)
    except OSError as error:
        raise CommandError(f"--out {args.out}: cannot be written: {error}") from error
    _print(parts)
    print(f"report: {page}")
    if target is not None:
        tables = [table for table in _tables(parts) if _printed(table)]
        print(f"W&B report: {wandb.publish(wandb.build(scores.comparison, tables, target, title))}")
    return 0


def compare(
    dirs: Sequence[Path], by: Sequence[str] | None = None, against: Sequence[str] | None = None
) -> Scores:
    """The scores of all runs that are found in or below directories.

    Args:
        dirs: of sweeps, of runs, or of both.
        by: see `Comparison`, as for against.

    Raises:
        CommandError: a directory is not there or holds no run.
        ComparisonError: see `Comparison`.
        LedgerError: a sweep's ledger is damaged.
    """
    seen: set[Path] = set()
    found = [item for folder in dirs for item in _found(folder, seen)]
    comparison = Comparison([item for item in found if isinstance(item, Run)], by, against)
    comparison.notices += [item for item in found if isinstance(item, Notice)]
    return Scores(comparison)


def _found(folder: Path, seen: set[Path]) -> Iterator[Run | Notice]:
    """The runs of a sweep as its ledger knows them, or every run below a folder."""
    if not folder.is_dir():
        raise CommandError(f"{folder}: no such directory; write the directory of a sweep or a run")
    try:
        before = set(seen)
        found = list(_below(folder, seen))
    except OSError as error:
        raise CommandError(f"{folder}: cannot be read: {error}") from error
    if not found and not any(place.is_relative_to(folder.resolve()) for place in before):
        raise CommandError(f"{folder}: holds no run; write the directory of a sweep or a run")
    yield from found


_MARKS = ("config.yaml", "status.json", "metrics.jsonl")
"""Files that tell a run."""


def _below(folder: Path, seen: set[Path]) -> Iterator[Run | Notice]:
    """Links are followed, each place is visited once, and nothing is looked for inside a run."""
    if folder.resolve() in seen:
        return
    seen.add(folder.resolve())
    if (folder / LEDGER).exists():
        yield from _of_sweep(folder, seen)
    elif any((folder / name).exists() for name in _MARKS):
        yield Run(folder)
    else:
        for child in sorted(path for path in folder.iterdir() if path.is_dir()):
            yield from _below(child, seen)


def _of_sweep(folder: Path, seen: set[Path]) -> Iterator[Run | Notice]:
    ledger, observed = Ledger.read(folder), observe(folder)
    if observed.problem:
        yield Notice(folder.name, f"states are those told last: {observed.problem}")
    for report in observed.reports:
        place = (folder / report.name).resolve()
        if place in seen:
            continue
        seen.add(place)
        entry = ledger.cells[report.name]
        words = shlex.join(entry.overrides)
        facts = {
            "game": entry.game,
            "seed": entry.seed,
            "steps": entry.steps,
            "command": f"python -m sdqn_lab.run {words}",
        }
        yield Run(folder / report.name, report.state, facts)
    strangers = {path.parent for name in _MARKS for path in folder.glob(f"*/{name}")}
    for path in sorted(strangers - {folder / name for name in ledger.cells}):
        yield Notice(path.name, "left out: a run that this sweep's ledger does not know")


def _title(dirs: Sequence[Path]) -> str:
    return " and ".join(map(str, dirs))


def _subtitle(scores: Scores, args: argparse.Namespace) -> list[str]:
    comparison = scores.comparison
    arms = "; ".join(f"{arm}" for arm in comparison.arms)
    return [
        f"{len(comparison.games)} games, {len(comparison.arms)} arms ({arms}), told apart by "
        f"{', '.join(comparison.axes) or 'nothing'}; baseline: {comparison.baseline}.",
        f"Made by: python -m sdqn_lab.report {shlex.join(_command(args))}",
    ]


def _command(args: argparse.Namespace) -> list[str]:
    flags = {"--by": args.by, "--against": args.against, "--literature": args.literature}
    words = [str(folder) for folder in args.dirs]
    for flag, value in flags.items():
        if value:
            words += [flag, ",".join(value) if isinstance(value, list) else str(value)]
    return words


def _printed(table: Table) -> bool:
    """Whether it is one of those, of whichever suite."""
    return table.name.rstrip("-0123456789") in PRINTED


def _tables(parts: Sequence[Section]) -> list[Table]:
    return [table for part in parts for table in part.tables]


def _print(parts: Sequence[Section]) -> None:
    terminal = tables_out()
    for table in _tables(parts):
        if _printed(table):
            terminal.print(_grid(table))
    lines = [remark for part in parts if part.name == "missing" for remark in part.remarks]
    warnings = [table for table in _tables(parts) if table.name == "warnings"]
    lines += [f"warnings in the report: {len(table.shown)}" for table in warnings]
    for line in lines:
        terminal.print(line)


def _grid(table: Table) -> Grid:
    grid = Grid(title=table.title, title_justify="left", title_style="bold")
    for column in table.shown:
        grid.add_column(str(column), overflow="fold")
    for row in table.shown.itertuples(index=False):
        grid.add_row(*("" if pd.isna(cell) else str(cell) for cell in row))
    return grid


if __name__ == "__main__":
    sys.exit(main())
