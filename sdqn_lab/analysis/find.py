"""The runs of sweeps and folders."""

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from sdqn_lab.analysis.comparison import Comparison, Notice
from sdqn_lab.analysis.scoring import Scores
from sdqn_lab.analysis.stored_run import Run
from sdqn_lab.checks.refused import Refused
from sdqn_lab.launching.ledger import FILE as LEDGER
from sdqn_lab.launching.ledger import Ledger
from sdqn_lab.launching.observe import observe

MARKS = ("config.yaml", "status.json", "metrics.jsonl")
"""Files that mark a run's directory."""
MAX_AXES = 8
"""Runs that differ in more settings were not made to be compared."""


def compare(
    folders: Sequence[Path], by: Sequence[str] | None = None, against: Sequence[str] | None = None
) -> Scores:
    """The scores of all runs that are found in or below folders.

    Args:
        folders: of sweeps, of runs, or of both.
        by: see `Comparison`, as for against.

    Raises:
        Refused: a folder is not there, cannot be read or holds no run; its runs are too unlike to
            be compared; or see `Comparison`.
        LedgerError: a sweep's ledger is damaged.
    """
    seen: set[Path] = set()
    found: list[Run | Notice] = []
    for folder in folders:
        instead = "the directory of a sweep or a run"
        if not folder.is_dir():
            raise Refused(f"{folder}", None, "no such directory", instead)
        place, before = folder.resolve(), set(seen)
        try:
            below = list(_below(folder, seen))
        except OSError as error:
            raise Refused(f"{folder}", None, f"cannot be read: {error}") from error
        # A folder that lies in one given before adds nothing, and is no mistake.
        if not below and not any(known.is_relative_to(place) for known in before):
            raise Refused(f"{folder}", None, "holds no run", instead)
        found += below
    comparison = Comparison([item for item in found if isinstance(item, Run)], by, against)
    # With --by the user has said what is to be compared.
    if by is None and len(comparison.axes) > MAX_AXES:
        some = ", ".join(comparison.axes[:MAX_AXES])
        rule = f"its runs differ in {len(comparison.axes)} settings ({some}, ...): no comparison"
        instead = "the directory of one study, or --by with the settings that matter"
        raise Refused(" ".join(map(str, folders)), None, rule, instead)
    comparison.notices += [item for item in found if isinstance(item, Notice)]
    return Scores(comparison)


def _below(folder: Path, seen: set[Path]) -> Iterator[Run | Notice]:
    """Links are followed, each place is visited once, and nothing is looked for inside a run."""
    if folder.resolve() in seen:
        return
    seen.add(folder.resolve())
    if (folder / LEDGER).exists():
        yield from _of_sweep(folder, seen)
    elif any((folder / name).exists() for name in MARKS):
        yield Run(folder)
    else:
        for child in sorted(path for path in folder.iterdir() if path.is_dir()):
            yield from _below(child, seen)


def _of_sweep(folder: Path, seen: set[Path]) -> Iterator[Run | Notice]:
    """The runs of a sweep as its ledger knows them."""
    # A ledger knows of cells that never began, and who was lost could not say so itself.
    ledger, observed = Ledger.read(folder), observe(folder)
    if observed.problem:
        yield Notice(folder.name, f"states are those last recorded: {observed.problem}")
    for report in observed.reports:
        place = (folder / report.name).resolve()
        if place in seen:
            continue
        seen.add(place)
        entry = ledger.cells[report.name]
        command = f"python -m sdqn_lab.run {shlex.join(entry.overrides)}"
        facts = {"game": entry.game, "seed": entry.seed, "steps": entry.steps, "command": command}
        yield Run(folder / report.name, report.state, facts)
    strangers = {path.parent for name in MARKS for path in folder.glob(f"*/{name}")}
    for path in sorted(strangers - {folder / name for name in ledger.cells}):
        yield Notice(path.name, "left out: a run that this sweep's ledger does not know")
