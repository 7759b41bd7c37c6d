"""A row of the result, what makes rows out of workloads, and the table of all rows."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from omegaconf import DictConfig
from rich.table import Table

from sdqn_lab.benchmarks.timing import Effort, Spread, Workload, alternate

Competitor = Callable[[], Workload]
"""Builds a workload to compare with; an ImportError says that it is not installed here."""


@dataclass(frozen=True)
class Setting:
    """Where and how carefully a benchmark is measured."""

    device: torch.device
    threads: int
    effort: Effort
    quick: bool
    """Whether to leave out some benchmarks of a kind."""
    compose: Callable[[list[str]], DictConfig]
    """Makes a config from overrides: `sdqn_lab.config.compose`."""


@dataclass(frozen=True)
class Row:
    """One comparison; `more` are further keys of its JSON form."""

    name: str
    ours: Spread
    against: str
    theirs: Spread | None
    """None where there is nothing to compare with."""
    unit: str = "ms"
    note: str = ""
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ratio(self) -> float | None:
        """Theirs by ours: above 1 ours is faster, or smaller."""
        return self.theirs.median / self.ours.median if self.theirs else None

    def record(self) -> dict[str, Any]:
        """Plain values for JSON; times have `ours_ms` and `against_ms`, other units null."""
        timed, theirs = self.unit == "ms", self.theirs
        return {
            "name": self.name,
            "ours_ms": self.ours.median if timed else None,
            "against": self.against,
            "against_ms": theirs.median if timed and theirs else None,
            "ratio": self.ratio,
            "unit": self.unit,
            "ours": self.ours._asdict(),
            "theirs": theirs._asdict() if theirs else dict.fromkeys(Spread._fields),
            "note": self.note,
            **self.more,
        }


class Benchmark:
    """Something that can be measured; nothing is built before it is.

    Args:
        stem: the name without the device.
        setting: where and how carefully.
        rows: makes the rows from name, setting and `arguments`, e.g. `compare`.
        arguments: what is measured.
    """

    def __init__(
        self, stem: str, setting: Setting, rows: Callable[..., list[Row]], *arguments: object
    ) -> None:
        self.name, self.setting = f"{stem}/{setting.device.type}", setting
        self.measure = partial(rows, self.name, setting, *arguments)


def compare(
    name: str,
    setting: Setting,
    ours: Competitor,
    others: Mapping[str, Competitor] = MappingProxyType({}),
    per: int = 1,
) -> list[Row]:
    """Measure ours and all others in turn.

    Args:
        name: of the rows.
        setting: the effort.
        ours: builds our workload.
        others: what to compare with; none: a single row that stands alone.
        per: units of work in one call (agent steps, transitions); times are those of one unit.

    Returns:
        A row for each other, those that are not installed with a note instead of a time.
    """
    # All are built before one is measured: they take turns.
    workloads, missing = {"ours": ours()}, {}
    for against, build in others.items():
        try:
            workloads[against] = build()
        except ImportError as error:
            missing[against] = f"not installed ({error})"
    times = {
        against: Spread(*(value / per for value in spread))
        for against, spread in alternate(workloads, setting.effort).items()
    }
    own = times.pop("ours")
    rows = [Row(name, own, against, theirs) for against, theirs in times.items()]
    rows += [Row(name, own, against, None, note=why) for against, why in missing.items()]
    return rows or [Row(name, own, "-", None)]


def table(rows: Sequence[Row]) -> Table:
    """All rows; a spread is median and quartiles, the quartiles only where they differ."""

    def shown(spread: Spread | None, unit: str) -> str:
        if spread is None:
            return ""
        quartiles = f" [{spread.low:.4g}, {spread.high:.4g}]" if spread.low < spread.high else ""
        return f"{spread.median:.4g}{quartiles} {unit}"

    made = Table(box=None, header_style="bold")
    # Names are what one looks for: all else may wrap.
    made.add_column("benchmark", min_width=max(len(row.name) for row in rows))
    made.add_column("against")
    for heading in ("ours", "theirs", "ratio"):
        made.add_column(heading, justify="right")
    made.add_column("note")
    for row in rows:
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}x"
        times = shown(row.ours, row.unit), shown(row.theirs, row.unit)
        made.add_row(row.name, row.against, *times, ratio, row.note)
    return made
