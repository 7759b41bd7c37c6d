"""What all figures of a report share: their form as files, and how an arm looks in each."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D

from sdqn_lab.analysis.comparison import Arm, Comparison

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31")
"""Distinguishable in the usual forms of colour blindness; after Okabe and Ito 2008."""
DASHES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    # Ids in an SVG are drawn at random without it: the same runs would give other bytes.
    "svg.hashsalt": "sdqn_lab",
    "text.parse_math": False,  # names are names
}
PANELS_PER_ROW = 3
PANEL_INCHES = (3.4, 2.6)
LEGEND_ROW_INCHES = 0.2
LETTER_INCHES, HANDLE_INCHES = 0.085, 0.7
"""What a legend's entry takes: each letter, and the line and gaps beside them."""
DPI = 150
MANY_ARMS = 7


class Look(NamedTuple):
    """How an arm looks in every figure of a report: distinguishable in print without colour too."""

    color: str
    dash: Any
    marker: str


@dataclass(frozen=True)
class Figure:
    """One figure with everything that a reader needs to read it.

    Attributes:
        name: of its files.
        title: what it shows.
        caption: units, seeds, intervals.
        canvas: the drawing.
    """

    name: str
    title: str
    caption: str
    canvas: Canvas

    def write(self, folder: Path) -> None:
        """Write `NAME.svg` and `NAME.png`."""
        (folder / f"{self.name}.svg").write_bytes(self.svg)
        (folder / f"{self.name}.png").write_bytes(self._saved(format="png", dpi=DPI))

    @cached_property
    def svg(self) -> bytes:
        """The same bytes for the same drawing."""
        # With a date the same runs would not give the same page.
        return self._saved(format="svg", metadata={"Date": None})

    def _saved(self, **form: Any) -> bytes:
        out = BytesIO()
        # With names too long for their panels matplotlib gives up its layout, and prints
        # that to the terminal of the user.
        with mpl.rc_context(STYLE), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            self.canvas.savefig(out, **form)
        return out.getvalue()


def looks(comparison: Comparison) -> dict[Arm, Look]:
    """The look of each arm: neighbours differ in colour, dash and marker."""
    return {
        # Rounds shift dash and marker by one, so that the ninth arm is not drawn as the first.
        arm: Look(
            PALETTE[number % len(PALETTE)],
            DASHES[(number + number // len(PALETTE)) % len(DASHES)],
            MARKERS[(number + number // (len(PALETTE) * len(DASHES))) % len(MARKERS)],
        )
        for number, arm in enumerate(comparison.arms)
    }


def panels(
    titles: Sequence[str], *, sharey: bool = False, height: float = PANEL_INCHES[1]
) -> tuple[Canvas, list[Axes]]:
    """A figure with a small panel for each title, in rows; `height` of a panel in inches."""
    columns = 2 if len(titles) == 4 else min(PANELS_PER_ROW, len(titles))
    rows = ceil(len(titles) / columns)
    with mpl.rc_context(STYLE):
        size = (max(PANEL_INCHES[0] * columns, 5.0), height * rows + 0.6)
        canvas = Canvas(figsize=size, layout="constrained")
        grid = canvas.subplots(rows, columns, squeeze=False, sharey=sharey)
    for axes in grid.flat[len(titles) :]:
        axes.remove()
    used = list(grid.flat[: len(titles)])
    for axes, title in zip(used, titles, strict=True):
        axes.set_title(title, fontsize=9)
    return canvas, used


def matrix(rows: Sequence[str], columns: Sequence[str]) -> tuple[Canvas, npt.NDArray[Any]]:
    """A figure with a panel for each row and column, both named."""
    with mpl.rc_context(STYLE):
        width, height = PANEL_INCHES
        size = (width * len(columns), 0.75 * height * len(rows) + 0.8)
        canvas = Canvas(figsize=size, layout="constrained")
        grid = canvas.subplots(len(rows), len(columns), squeeze=False)
    for axes, title in zip(grid[0], columns, strict=True):
        axes.set_title(title, fontsize=9)
    for axes, title in zip(grid[:, 0], rows, strict=True):
        axes.set_ylabel(title)
    return canvas, grid


def name_ticks(panel: Axes, names: Sequence[str]) -> None:
    """Put the names of arms below a panel, upright where they are many."""
    few = len(names) < MANY_ARMS
    turned, end = (25, "right") if few else (90, "center")
    panel.set_xticks(range(len(names)), names, rotation=turned, ha=end)


def legend(canvas: Canvas, arms: dict[Arm, Look]) -> None:
    """One legend below all panels."""
    handles = [
        Line2D([], [], color=color, linestyle=dash, marker=marker, markersize=4, label=str(arm))
        for arm, (color, dash, marker) in arms.items()
    ]
    # Names may be long: as many columns as fit, and room for the rows that this takes.
    widest = max(len(str(arm)) for arm in arms) * LETTER_INCHES + HANDLE_INCHES
    columns = max(1, min(len(handles), int(canvas.get_figwidth() / widest)))
    rows = ceil(len(handles) / columns)
    canvas.set_figheight(canvas.get_figheight() + LEGEND_ROW_INCHES * (rows - 1))
    canvas.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False)
