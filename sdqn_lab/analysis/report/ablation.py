"""The ablation view: what each axis does by itself, and two together."""

import re
from collections import defaultdict
from itertools import combinations

import numpy as np
import pandas as pd

from sdqn_lab.analysis import statistics
from sdqn_lab.analysis.comparison import Task, in_words
from sdqn_lab.analysis.figures import Figure, panels
from sdqn_lab.analysis.records import Array
from sdqn_lab.analysis.report.how_sure import SEED
from sdqn_lab.analysis.report.how_sure import in_words as with_interval
from sdqn_lab.analysis.report.section import Section
from sdqn_lab.analysis.scores import Scores, Suite, suites
from sdqn_lab.analysis.tables import Table


def ablation(scores: Scores) -> Section | None:
    """A table an axis and a heat map a pair of axes; None where fewer than two axes vary."""
    axes = scores.comparison.varied
    if len(axes) < 2:
        return None
    remarks = [
        "Each row pools every run with that value, whatever its other axes; where the grid has "
        "holes, rows differ in more than the axis. Pairs show where."
    ]
    items: list[Table | Figure] = []
    for number, suite in enumerate(suites(scores.comparison.tasks)):
        if not any(len(scores.last(t, arm)) for t in suite.tasks for arm in scores.comparison.arms):
            continue
        end = "" if number == 0 else f"-{number + 1}"
        items += [_marginal(scores, suite, axis, end) for axis in axes]
        items += [_heat(scores, suite, *pair, end) for pair in combinations(axes, 2)]
    return Section("ablation", "One axis at a time", remarks, items)


def _values(scores: Scores, suite: Suite, chosen: dict[str, object]) -> list[Array]:
    """Scores (seeds,) of each task and combination of all that varies; none is empty.

    Seeds alone are in one array: a bootstrap that drew settings too would take the ablation itself
    for chance.
    """
    found: dict[tuple[Task, tuple[object, ...]], list[float]] = defaultdict(list)
    for task in suite.tasks:
        for score in (s for arm in scores.comparison.arms for s in scores.of(task, arm)):
            options = score.run.options
            if all(options.get(key) == value for key, value in chosen.items()):
                settings = tuple(options.get(axis) for axis in scores.comparison.varied)
                found[task, settings].append(score.last)
    return [suite.normalize(task, np.array(told, float)) for (task, _), told in found.items()]


def _options(scores: Scores, axis: str) -> list[object]:
    return list(dict.fromkeys(run.options.get(axis) for run in scores.comparison.runs))


def slug(key: str) -> str:
    """A key as a part of a file's name."""
    return re.sub(r"[^\w]", "-", key)


def _name(value: object) -> str:
    return "-" if value is None else in_words(value)


def _marginal(scores: Scores, suite: Suite, axis: str, end: str) -> Table:
    rng = np.random.default_rng(SEED)
    shown, data = [], []
    for value in _options(scores, axis):
        cells = _values(scores, suite, {axis: value})
        row = {axis: _name(value), "games and settings": len(cells), "runs": sum(map(len, cells))}
        told = {
            name: statistics.interval(statistic, cells, rng) if cells else None
            for name, statistic in (("IQM", statistics.iqm), ("mean", statistics.mean))
        }
        shown.append(row | {name: with_interval(v) if v else "-" for name, v in told.items()})
        data.append(row | {name: v.estimate if v else None for name, v in told.items()})
    dash = "A dash: the axis means nothing to the neuron."
    caption = (
        f"Last window, {suite.name}; 95% percentile intervals of a stratified bootstrap "
        f"({statistics.REPETITIONS:,} draws of seeds within each game and combination of "
        f"settings). Mean: over these of the mean over seeds. {dash}"
    )
    name = f"by-{slug(axis)}{end}"
    return Table(name, f"By {axis}", caption, pd.DataFrame(shown), pd.DataFrame(data))


def _heat(scores: Scores, suite: Suite, down: str, across: str, end: str) -> Figure:
    rows, columns = _options(scores, down), _options(scores, across)
    grid = np.full((len(rows), len(columns)), np.nan)
    counts = np.zeros(grid.shape, int)
    for place in np.ndindex(grid.shape):
        cells = _values(scores, suite, {down: rows[place[0]], across: columns[place[1]]})
        counts[place] = sum(map(len, cells))
        if cells:
            grid[place] = statistics.mean(cells)
    canvas, (panel,) = panels([f"{down} x {across}"])
    panel.grid(visible=False)
    image = panel.imshow(grid, cmap="viridis", aspect="auto")
    low, high = np.nanmin(grid), np.nanmax(grid)
    for place in np.ndindex(grid.shape):
        text = "no run" if not counts[place] else f"{grid[place]:.3g}\n({counts[place]} runs)"
        dark = bool(counts[place]) and grid[place] < (low + high) / 2
        panel.text(
            place[1],
            place[0],
            text,
            ha="center",
            va="center",
            fontsize=8,
            color="white" if dark else "black",
        )
    panel.set_xticks(range(len(columns)), [_name(value) for value in columns])
    panel.set_yticks(range(len(rows)), [_name(value) for value in rows])
    panel.set_xlabel(across)
    panel.set_ylabel(down)
    canvas.colorbar(image, ax=panel, label=suite.name)
    caption = (
        f"Last window, {suite.name}: mean over games, and over settings of other axes, of "
        "the mean over seeds."
    )
    name = f"pair-{slug(down)}-{slug(across)}{end}"
    return Figure(name, f"{down} and {across}", caption, canvas)
