"""`python -m sdqn_lab.bench`: ours beside others on this machine; see docs/SPEED.md."""

import os
import sys
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch

from sdqn_lab import config
from sdqn_lab.assembly.build import resolve_threads
from sdqn_lab.benchmarks import layers, learning, training
from sdqn_lab.benchmarks.rows import Benchmark, Row, Setting, table
from sdqn_lab.benchmarks.timing import FULL, QUICK
from sdqn_lab.checks.refused import Refused
from sdqn_lab.commands import shell
from sdqn_lab.runs.files import write_json
from sdqn_lab.runs.provenance import code, machine


def benchmarks(setting: Setting) -> list[Benchmark]:
    """All benchmarks of one device, the quick ones leaving out some of a kind."""
    return [one for kind in (learning, layers, training) for one in kind.benchmarks(setting)]


def selected(all_: Sequence[Benchmark], pattern: str) -> list[Benchmark]:
    """Those whose name matches a pattern with * and ?, or contains a text without them."""
    whole = pattern if any(sign in pattern for sign in "*?") else f"*{pattern}*"
    return [one for one in all_ if fnmatchcase(one.name, whole)]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    with shell.answering() as outcome:
        outcome.code = command(argv)
    return outcome.code


def command(argv: Sequence[str] | None) -> int:
    """What `main` does.

    Raises:
        Refused: an argument is wrong.
    """
    parser = shell.Parser(prog=shell.program("bench"), description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rows and rounds: minutes")
    parser.add_argument("--only", metavar="PATTERN", help="names that match, or contain this text")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the rows to this file")
    parser.add_argument("--list", action="store_true", help="print the names and end")
    parser.add_argument("--threads", metavar="N", type=int, help="CPU threads; default: all CPUs")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: all there are")
    args = parser.parse_args(argv)
    threads, gpu = resolve_threads(args.threads), torch.cuda.is_available()
    if threads < 1:
        raise Refused("--threads", threads, "must be >= 1")
    if args.json and args.json.is_dir():
        raise Refused("--json", args.json, "must be a file, not a folder")
    if args.json and not os.access(args.json.absolute().parent, os.W_OK):
        raise Refused("--json", args.json, "must lie in a folder that can be written")
    if args.device == "cuda" and not gpu:
        raise Refused("--device", "cuda", "torch sees no GPU on this machine", "--device=cpu")
    devices = [args.device] if args.device else ["cpu", *(["cuda"] if gpu else [])]
    effort = QUICK if args.quick else FULL
    found: list[Benchmark] = []
    for device in map(torch.device, devices):
        found += benchmarks(Setting(device, threads, effort, args.quick, config.compose))
    chosen = selected(found, args.only or "")
    if not chosen:
        raise Refused("--only", args.only, "must match a name of --list")
    if args.list:
        print("\n".join(benchmark.name for benchmark in chosen))
        return 0
    torch.set_num_threads(threads)
    measure(chosen, args.json)
    return 0


def measure(chosen: Sequence[Benchmark], file: Path | None) -> None:
    """Run one after the other and show all rows; the file is whole after each of them."""
    facts, sha = machine(), code()["git_sha"]
    rows, records = list[Row](), list[dict[str, Any]]()
    for number, benchmark in enumerate(chosen, start=1):
        print(f"[{number}/{len(chosen)}] {benchmark.name}", file=sys.stderr, flush=True)
        made, setting = benchmark.measure(), benchmark.setting
        where = {"device": setting.device.type, "threads": setting.threads, "machine": facts}
        rows += made
        records += [row.record() | {"git_sha": sha, **where} for row in made]
        # After each, so that a bench that is stopped keeps what it has.
        if file is not None:
            write_json(file, records)
    out, torch_version = shell.output(), facts["versions"]["torch"]
    out.print(f"{facts['cpu']}, {chosen[0].setting.threads} threads, torch {torch_version}")
    out.print(*(f"GPU: {gpu}" for gpu in facts["gpus"]), table(rows), sep="\n")


if __name__ == "__main__":
    sys.exit(main())
