"""One network at several T: score, firing and energy, as a figure and as a table of numbers."""

import io
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from sdqn_lab.analysis.statistics import Interval
from sdqn_lab.runs.files import write_atomic

LAYERS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9")
"""After Okabe and Ito."""
INK = "#24292f"
CAPTION_LETTERS = 160
"""What fits below the figure in a line."""


class Point(NamedTuple):
    """What was found at one T.

    Attributes:
        time_window: T, simulation steps per decision.
        episodes: that were played.
        score: mean return with its interval over these episodes.
        firing_rates: layer -> share of active (step, unit) pairs.
        energy_nj: of a decision, where a constant input is mapped once.
        energy_every_step_nj: of a decision, where it is mapped at each step.
    """

    time_window: int
    episodes: int
    score: Interval
    firing_rates: dict[str, float]
    energy_nj: float
    energy_every_step_nj: float


def write_time_windows(points: Sequence[Point], path: Path, trained: int, caption: str) -> None:
    """Write a figure as PNG, as SVG beside it, and its numbers as CSV.

    Args:
        points: one for each T.
        path: of the PNG.
        trained: the T that the network was trained with.
        caption: what was played, under which rules, priced by what.

    Raises:
        OSError: a file cannot be written.
    """
    figure = _drawn(points, trained, caption)
    for suffix in (".png", ".svg"):
        data = io.BytesIO()
        # The same points give the same bytes, and text stays text.
        with rc_context({"svg.hashsalt": "sdqn_lab", "svg.fonttype": "none"}):
            metadata = {"Date": None} if suffix == ".svg" else {}
            figure.savefig(data, format=suffix[1:], dpi=160, metadata=metadata)
        write_atomic(path.with_suffix(suffix), data.getvalue())
    rows = [
        {
            "time_window": point.time_window,
            "episodes": point.episodes,
            "return_mean": point.score.estimate,
            "return_low": point.score.low,
            "return_high": point.score.high,
            "energy_nj": point.energy_nj,
            "energy_every_step_nj": point.energy_every_step_nj,
            **{f"firing_rate/{layer}": rate for layer, rate in point.firing_rates.items()},
        }
        for point in points
    ]
    table = pd.DataFrame(rows).to_csv(index=False, lineterminator="\n")
    write_atomic(path.with_suffix(".csv"), table.encode())


def _drawn(points: Sequence[Point], trained: int, caption: str) -> Figure:
    figure = Figure(figsize=(12.6, 4.6), layout="constrained")
    score, firing, energy = figure.subplots(1, 3)
    steps = [point.time_window for point in points]
    for axes in (score, firing, energy):
        axes.set_xscale("log", base=2)
        axes.set_xticks(steps, [f"{step}" for step in steps])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("T, steps of a decision (dotted: as trained)", color=INK)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.25)
        axes.axvline(trained, color="#8c959f", linestyle=":", linewidth=1.5, zorder=0)
    score.plot(steps, [point.score.estimate for point in points], "o-", color=LAYERS[0])
    for point in points:
        _, low, high = point.score
        if low is not None and high is not None:
            score.vlines(point.time_window, low, high, color=LAYERS[0], linewidth=5, alpha=0.3)
    spread = "" if points[0].score.low is None else ", 95% interval over episodes"
    score.set_title(f"Mean return{spread}")
    for number, layer in enumerate(points[0].firing_rates):
        rates = [point.firing_rates[layer] for point in points]
        firing.plot(steps, rates, "o-", color=LAYERS[number % len(LAYERS)], label=layer)
    firing.set_title("Firing rate: spikes per unit and step")
    once = [point.energy_nj for point in points]
    every = [point.energy_every_step_nj for point in points]
    energy.plot(steps, once, "o-", color=LAYERS[0], label="first layer mapped once")
    if every != once:
        energy.plot(steps, every, "s--", color=LAYERS[4], label="first layer mapped at each step")
    energy.set_title("Energy of a decision, nJ")
    # Zero is in sight: half a firing rate looks like half of it.
    for axes in (firing, energy):
        axes.margins(y=0.2)
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False, fontsize=9)
    wrapped = "\n".join(textwrap.fill(line, CAPTION_LETTERS) for line in caption.splitlines())
    figure.supxlabel(wrapped, fontsize=8.5, color="#57606a")
    return figure
