"""Learning curves: evaluations against steps, frames and time."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import EngFormatter

from sdqn_lab.analysis import statistics
from sdqn_lab.analysis.comparison import Comparison
from sdqn_lab.analysis.figures import Figure, Look, legend, looks, panels
from sdqn_lab.analysis.records import SCORE
from sdqn_lab.analysis.sections.section import Section
from sdqn_lab.analysis.statistics import Array
from sdqn_lab.analysis.stored_run import OVERSHOOT, Run, read_off

Clock = Callable[[Sequence[Run], Array], Array]
"""The places on the horizontal axis of an arm's runs at some agent steps."""
SEED, REPETITIONS = 0, 500
"""Of the bootstrap behind the bands."""
MAX_MARKERS = 15
BAND = (
    "Line: mean over seeds; band: 95% percentile interval of its bootstrap over seeds "
    f"({statistics.draws(REPETITIONS)}), pointwise; pale: not all seeds have been there."
)


def learning_curves(comparison: Comparison) -> Section:
    """Per game a panel, against agent steps (and frames) and against time."""
    if not comparison.begun:
        return Section("learning", "Learning curves", ["No run was evaluated yet."])
    canvas, _ = _curves(comparison, "minutes of the arm's fastest run", minutes)
    machines = ", ".join(sorted({run.machine for run in comparison.runs if run.evaluations}))
    caption = (
        "The same by the clock of each arm's fastest run in the game, all its attempts together: "
        f"other work on a machine slows runs down, and nothing speeds them up. {BAND} Comparable "
        f"only where machines were alike; these runs: {machines}."
    )
    over_time = Figure("learning-curves-time", "Learning curves over time", caption, canvas)
    figures = [curves_over_steps(comparison), over_time]
    return Section("learning", "Learning curves", items=figures)


def curves_over_steps(comparison: Comparison) -> Figure:
    """Evaluation returns against agent steps; the axis above counts emulator frames."""
    canvas, axes = _curves(comparison, "agent steps")
    for panel, task in zip(axes, comparison.begun, strict=True):
        panel.xaxis.set_major_formatter(EngFormatter(sep=""))
        runs = [run for arm in comparison.arms for run in comparison.of(task, arm)]
        lasts = [run.evaluations[-1] for run in runs if run.evaluations]
        frames = max(round(last["frames"] / max(last["step"], 1)) for last in lasts)
        if frames > 1:
            scale = partial(np.multiply, frames), partial(np.multiply, 1 / frames)
            above = panel.secondary_xaxis("top", scale)
            above.xaxis.set_major_formatter(EngFormatter(sep=""))
            above.tick_params(labelsize=8)
            above.set_xlabel("emulator frames", fontsize=8)
    seeds = {sum(bool(run.evaluations) for run in runs) for runs in comparison.cells.values()}
    counts = " to ".join(f"{count}" for count in sorted({min(seeds - {0}), max(seeds)}))
    caption = f"{BAND} Seeds per arm and game: {counts}."
    return Figure("learning-curves", "Learning curves", caption, canvas)


def minutes(runs: Sequence[Run], steps: Array) -> Array:
    """When the fastest of the runs that go furthest was at these steps."""
    ends = [run.evaluations[-1] for run in runs]
    furthest = max(end["step"] for end in ends)
    reached = [end for end in ends if end["step"] >= (1 - OVERSHOOT) * furthest]
    best = min(reached, key=lambda end: end["wall_seconds"] / max(end["step"], 1))
    records = runs[ends.index(best)].evaluations
    passed = [(0, 0), *((each["step"], each["wall_seconds"]) for each in records)]
    return np.asarray(np.interp(steps, *np.array(passed, float).T) / 60)


def _curves(
    comparison: Comparison,
    label: str,
    clock: Clock = lambda _, steps: steps,
) -> tuple[Canvas, list[Axes]]:
    """A panel for each task, a line for each arm, against agent steps or by a clock."""
    canvas, axes = panels([str(task) for task in comparison.begun])
    for panel, task in zip(axes, comparison.begun, strict=True):
        for arm, look in looks(comparison).items():
            runs = [run for run in comparison.of(task, arm) if run.evaluations]
            if runs:
                _draw(panel, runs, clock, look)
        panel.set_xlabel(label)
    canvas.supylabel("evaluation return, game points", fontsize=9)
    legend(canvas, looks(comparison))
    return canvas, axes


def _draw(panel: Axes, runs: Sequence[Run], clock: Clock, look: Look) -> None:
    """Seeds are read off at the same places: the evaluations of the run that goes furthest.

    Before the first of them, those of the others.
    """
    curves = [
        np.array([[record["step"], record[SCORE]] for record in run.evaluations], float).T
        for run in runs
    ]
    # Evaluations of several seeds never lie at the same step.
    furthest = max((places for places, _ in curves), key=lambda at: (at[-1], len(at)))
    others = np.unique(np.concatenate([places for places, _ in curves]))
    grid = np.concatenate([others[others < (1 - OVERSHOOT) * furthest[0]], furthest])
    values = np.stack([read_off(grid, *curve) for curve in curves])
    x, mean, partly = clock(runs, grid), np.nanmean(values, 0), np.asarray(np.isnan(values).any(0))
    edges = np.pad(partly, 1)
    pale = partly | edges[:-2] | edges[2:]  # with the points that their lines lead to
    marks = max(1, len(x) // MAX_MARKERS)
    style: Any = {"color": look.color, "ls": look.dash, "marker": look.marker, "ms": 3}
    panel.plot(x, np.where(partly, np.nan, mean), markevery=marks, **style)
    faint = np.where(pale, mean, np.nan)
    panel.plot(x, faint, markevery=marks, alpha=0.35, linewidth=1, **style)
    low, high = np.full((2, len(grid)), np.nan)
    for place, at in enumerate(values.T):
        known = at[~np.isnan(at)]
        if len(known) > 1:  # one seed says nothing of the spread
            rng = np.random.default_rng(SEED)
            low[place], high[place] = statistics.band(
                statistics.mean, [known], rng, repetitions=REPETITIONS
            )
    panel.fill_between(x, low, high, color=look.color, alpha=0.15, linewidth=0)
