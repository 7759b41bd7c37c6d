"""A row of the result, and the contest that makes rows out of forms."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch

from sdqn_lab.benchmarks.timing import Effort, Form, Spread, Watch, alternate, events, wall

Rival = Callable[[], Form]
"""Builds a form to compare with; an ImportError says that it is not installed here."""


@dataclass(frozen=True)
class Setting:
    """Where and how carefully a benchmark is measured."""

    device: torch.device
    threads: int
    effort: Effort
    quick: bool

    @property
    def watch(self) -> Watch:
        """The clock for work of this device."""
        return events if self.device.type == "cuda" else wall


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        name: what was measured.
        ours: our measurement; None where it could not be made.
        against: what it is compared with.
        theirs: the other's measurement; None where there is nothing to compare with.
        unit: of both; "ms" but for memory.
        note: anything a reader has to know.
        more: further keys of the JSON row.
    """

    name: str
    ours: Spread | None
    against: str
    theirs: Spread | None
    unit: str = "ms"
    note: str = ""
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ratio(self) -> float | None:
        """Theirs by ours: above 1 ours is faster, or smaller."""
        if self.ours is None or self.theirs is None:
            return None
        return self.theirs.median / self.ours.median

    def record(self) -> dict[str, Any]:
        """Plain values for JSON; times have ``ours_ms`` and ``against_ms``, other units null."""
        timed = self.unit == "ms"
        ours, theirs = _values(self.ours), _values(self.theirs)
        return {
            "name": self.name,
            "ours_ms": ours["median"] if timed else None,
            "against": self.against,
            "against_ms": theirs["median"] if timed else None,
            "ratio": self.ratio,
            "unit": self.unit,
            "ours": ours,
            "theirs": theirs,
            "note": self.note,
            **self.more,
        }


def contest(
    name: str,
    ours: Form,
    rivals: Mapping[str, Rival],
    setting: Setting,
    *,
    per: int = 1,
    watch: Watch | None = None,
    more: Mapping[str, Any] = MappingProxyType({}),
) -> list[Row]:
    """Measure ours and all rivals in turn.

    Args:
        name: of the rows.
        ours: our form.
        rivals: what to compare with; none: a single row that stands alone.
        setting: device and effort.
        per: units of work in one call (agent steps, transitions); times are those of one unit.
        watch: the clock; None: that of the device.
        more: further keys of all rows.

    Returns:
        A row for each rival, those that are not installed with a note instead of a time.
    """
    forms, missing = _built(rivals)
    times = alternate({"ours": ours, **forms}, setting.effort, watch or setting.watch)
    each = {form: Spread(*(value / per for value in spread)) for form, spread in times.items()}
    measured = [Row(name, each["ours"], rival, each[rival], more=more) for rival in forms]
    absent = [Row(name, each["ours"], rival, None, note=why, more=more) for rival, why in missing]
    return measured + absent or [Row(name, each["ours"], "-", None, more=more)]


def _built(rivals: Mapping[str, Rival]) -> tuple[dict[str, Form], list[tuple[str, str]]]:
    forms, missing = {}, []
    for name, build in rivals.items():
        try:
            forms[name] = build()
        except ImportError as error:
            missing.append((name, f"not installed ({error})"))
    return forms, missing


def _values(spread: Spread | None) -> dict[str, float | None]:
    if spread is None:
        return dict.fromkeys(Spread._fields)
    return spread._asdict()
