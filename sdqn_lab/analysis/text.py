"""How values and numbers are printed in tables, captions and labels."""

from math import floor, log10
from typing import Any

import numpy as np

from sdqn_lab.analysis.statistics import Array, Interval

ROUNDING = 1e-9
"""Scores that differ by this share of themselves differ by rounding."""


def value_text(value: Any) -> str:
    """A setting as it is written on the command line."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "none"}[value]
    if isinstance(value, tuple):
        return f"[{','.join(map(value_text, value))}]"
    return str(value)


def number(value: float) -> str:
    """Three digits, and more where the number is larger than that."""
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.3g}"


def with_spread(values: Array) -> str:
    """`3.20 ± 0.41`; one seed has no spread, and says so."""
    if not len(values):
        return "-"
    if len(values) == 1:
        return f"{number(values[0])} (one seed)"
    spread = values.std(ddof=1)
    if spread <= ROUNDING * np.abs(values).max():
        return f"{number(values.mean())} ± 0"
    # Two digits of the spread, and the mean to the same place.
    digits = max(0, 1 - floor(log10(spread)))
    return f"{values.mean():,.{digits}f} ± {spread:,.{digits}f}"


def with_interval(value: Interval | None) -> str:
    """`0.41 [0.33, 0.52]`; without an interval the estimate alone."""
    if value is None:
        return "-"
    if value.low is None or value.high is None:
        return f"{number(value.estimate)} (one seed)"
    return f"{number(value.estimate)} [{number(value.low)}, {number(value.high)}]"


def with_range(values: Array) -> str:
    """`0.120 (0.100 to 0.150)`: mean, lowest and highest."""
    if len(values) < 2:
        return f"{values[0]:.3f}" if len(values) else "-"
    return f"{values.mean():.3f} ({values.min():.3f} to {values.max():.3f})"


def counted(number: int, noun: str) -> str:
    """`1 run`, `2 runs`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
