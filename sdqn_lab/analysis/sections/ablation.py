"""The ablation view: what each axis does by itself, and two together."""

import re
from collections import defaultdict
from itertools import combinations

import numpy as np
import pandas as pd

from sdqn_lab.analysis import statistics
from sdqn_lab.analysis.comparison import Task
from sdqn_lab.analysis.figures import Figure, panels
from sdqn_lab.analysis.scoring import Scores, Suite, suites
from sdqn_lab.analysis.sections.section import Section, Table
from sdqn_lab.analysis.statistics import Array
from sdqn_lab.analysis.text import value_text, with_interval

SEED = 0
"""Of the bootstrap's own generator."""


def ablation(scores: Scores) -> Section | None:
    """A table for each axis, a heat map for each pair; None where fewer than two axes vary."""
    comparison = scores.comparison
    axes = comparison.varied
    if len(axes) < 2:
        return None
    remarks = [
        "Each row pools every run with that value, whatever its other axes; where the grid has "
        "holes, rows differ in more than the axis. Pairs show where."
    ]
    items: list[Table | Figure] = []
    for suite in suites(comparison.tasks):
        if any(len(scores.last(task, arm)) for task in suite.tasks for arm in comparison.arms):
            items += [_by_axis(scores, suite, axis) for axis in axes]
            items += [_heat_map(scores, suite, *pair) for pair in combinations(axes, 2)]
    return Section("ablation", "One axis at a time", remarks, items)


def _values(scores: Scores, suite: Suite, chosen: dict[str, object]) -> list[Array]:
    """Scores (seeds,) of each task and combination of all that varies; none is empty.

    Seeds alone are in one array: a bootstrap that drew settings too would take the ablation itself
    for chance.
    """
    comparison = scores.comparison
    found: dict[tuple[Task, tuple[object, ...]], list[float]] = defaultdict(list)
    for task in suite.tasks:
        for score in (s for arm in comparison.arms for s in scores.of(task, arm)):
            option = score.run.option
            if all(option(key) == value for key, value in chosen.items()):
                # Also what --by left out: pooled runs are no seeds of each other.
                settings = tuple(map(option, (*comparison.varied, *comparison.axes)))
                found[task, settings].append(score.last)
    return [suite.normalize(task, np.array(last, float)) for (task, _), last in found.items()]


def _options(scores: Scores, axis: str) -> dict[object, str]:
    """Each value of an axis, and what it is called."""
    values = dict.fromkeys(run.option(axis) for run in scores.comparison.runs)
    return {value: "-" if value is None else value_text(value) for value in values}


def _file_name(*keys: str) -> str:
    return "-".join(re.sub(r"[^\w]", "-", key) for key in keys)


def _by_axis(scores: Scores, suite: Suite, axis: str) -> Table:
    rng = np.random.default_rng(SEED)
    shown, data = [], []
    for value, name in _options(scores, axis).items():
        cells = _values(scores, suite, {axis: value})
        row = {axis: name, "games and settings": len(cells), "runs": sum(map(len, cells))}
        found = {
            name: statistics.interval(statistic, cells, rng) if cells else None
            for name, statistic in (("IQM", statistics.iqm), ("mean", statistics.mean))
        }
        shown.append(row | {name: with_interval(value) for name, value in found.items()})
        data.append(
            row | {name: value.estimate if value else None for name, value in found.items()}
        )
    caption = (
        f"Last window, {suite.name}; 95% percentile intervals of a stratified bootstrap over the "
        "seeds within each game and combination of settings "
        f"({statistics.draws()}). Mean: over these of the mean over seeds. A dash: the axis means "
        "nothing to the neuron."
    )
    name = f"by-{_file_name(axis)}{suite.suffix}"
    return Table(name, f"By {axis}", caption, pd.DataFrame(shown), pd.DataFrame(data))


def _heat_map(scores: Scores, suite: Suite, down: str, across: str) -> Figure:
    rows, columns = _options(scores, down), _options(scores, across)
    grid, counts = np.full((len(rows), len(columns)), np.nan), {}
    for y, row in enumerate(rows):
        for x, column in enumerate(columns):
            cells = _values(scores, suite, {down: row, across: column})
            counts[y, x] = sum(map(len, cells))
            if cells:
                grid[y, x] = statistics.mean(cells)
    canvas, (panel,) = panels([f"{down} x {across}"])
    panel.grid(visible=False)
    image = panel.imshow(grid, cmap="viridis", aspect="auto")
    # Dark fields take white letters.
    middle = (np.nanmin(grid) + np.nanmax(grid)) / 2
    for (y, x), count in counts.items():
        text = f"{grid[y, x]:.3g}\n({count} runs)" if count else "no run"
        color = "white" if grid[y, x] < middle else "black"
        panel.text(x, y, text, ha="center", va="center", fontsize=8, color=color)
    panel.set_xticks(range(len(columns)), list(columns.values()))
    panel.set_yticks(range(len(rows)), list(rows.values()))
    panel.set_xlabel(across)
    panel.set_ylabel(down)
    canvas.colorbar(image, ax=panel, label=suite.name)
    caption = (
        f"Last window, {suite.name}: mean over games, and over settings of other axes, of "
        "the mean over seeds."
    )
    name = f"pair-{_file_name(down, across)}{suite.suffix}"
    return Figure(name, f"{down} and {across}", caption, canvas)
