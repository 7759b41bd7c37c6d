"""``python -m sdqn_lab.bench``: ours beside others on this machine; see docs/SPEED.md."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from rich.console import Console
from rich.table import Table

from sdqn_lab.benchmarks.catalogue import Benchmark, benchmarks, selected
from sdqn_lab.benchmarks.rows import Row, Setting
from sdqn_lab.benchmarks.timing import FULL, QUICK, Spread
from sdqn_lab.build import resolve_threads
from sdqn_lab.runs.files import write_json
from sdqn_lab.runs.provenance import code, machine

PLAIN_WIDTH = 160
"""Columns of a table that goes into a file or a pipe."""
USAGE_ERROR = 2


class UsageError(Exception):
    """The command line is wrong; the message is one line."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; write --help for the options")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    try:
        args = _arguments(argv)
        chosen = _chosen(args)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE_ERROR
    if args.list:
        print("\n".join(benchmark.name for benchmark in chosen))
        return 0
    torch.set_num_threads(args.threads)
    _measure(chosen, args.json)
    return 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _Parser(prog="python -m sdqn_lab.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rows and rounds: minutes")
    parser.add_argument("--only", metavar="PATTERN", help="names that match, or hold this word")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the rows to this file")
    parser.add_argument("--list", action="store_true", help="print the names and end")
    parser.add_argument("--threads", metavar="N", type=int, help="CPU threads; default: all CPUs")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: all there are")
    args = parser.parse_args(argv)
    args.threads = resolve_threads(args.threads)
    if args.threads < 1:
        raise UsageError(f"--threads must be >= 1, got {args.threads}")
    if args.json is not None:
        _check_file(args.json)
    return args


def _check_file(file: Path) -> None:
    if file.is_dir():
        raise UsageError(f"--json must be a file, got the folder {file}")
    folder = file.absolute().parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UsageError(f"--json must lie in a folder that exists and can be written, got {file}")


def _chosen(args: argparse.Namespace) -> list[Benchmark]:
    gpu = torch.cuda.is_available()
    if args.device == "cuda" and not gpu:
        raise UsageError("--device must be cpu on this machine, got cuda: torch sees no GPU")
    devices = [args.device] if args.device else ["cpu", *(["cuda"] if gpu else [])]
    effort = QUICK if args.quick else FULL
    settings = [Setting(torch.device(name), args.threads, effort, args.quick) for name in devices]
    chosen = selected([one for s in settings for one in benchmarks(s)], args.only)
    if not chosen:
        raise UsageError(f"--only must match a name of --list, got {args.only}")
    return chosen


def _measure(chosen: list[Benchmark], file: Path | None) -> None:
    """Run one after the other; the file is whole after each of them."""
    out = Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH, markup=False, emoji=False)
    facts, sha = machine(), code()["git_sha"]
    rows: list[Row] = []
    records: list[dict[str, Any]] = []
    for number, benchmark in enumerate(chosen, start=1):
        print(f"[{number}/{len(chosen)}] {benchmark.name}", file=sys.stderr, flush=True)
        made = benchmark.measure()
        rows += made
        where = {"git_sha": sha, **_where(benchmark.setting, facts)}
        records += [row.record() | where for row in made]
        if file is not None:
            write_json(file, records)
    for line in _heading(chosen, facts):
        out.print(line)
    out.print(_table(rows))


def _where(setting: Setting, facts: dict[str, Any]) -> dict[str, Any]:
    return {"device": setting.device.type, "threads": setting.threads, "machine": facts}


def _heading(chosen: list[Benchmark], facts: dict[str, Any]) -> list[str]:
    setting = chosen[0].setting
    torch_version = facts["versions"]["torch"]
    lines = [f"{facts['cpu']}, {setting.threads} threads, torch {torch_version}"]
    return lines + [f"GPU: {gpu}" for gpu in facts["gpus"]]


def _table(rows: list[Row]) -> Table:
    table = Table("benchmark", "against", box=None, header_style="bold")
    for heading in ("ours", "theirs", "ratio"):
        table.add_column(heading, justify="right")
    table.add_column("note")
    for row in rows:
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}x"
        ours, theirs = (_shown(spread, row.unit) for spread in (row.ours, row.theirs))
        table.add_row(row.name, row.against, ours, theirs, ratio, row.note)
    return table


def _shown(spread: Spread | None, unit: str) -> str:
    """Median and quartiles; the quartiles only where they differ."""
    if spread is None:
        return ""
    if spread.low == spread.high:
        return f"{spread.median:.4g} {unit}"
    return f"{spread.median:.4g} [{spread.low:.4g}, {spread.high:.4g}] {unit}"


if __name__ == "__main__":
    sys.exit(main())
