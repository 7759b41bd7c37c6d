"""Learning curves: evaluations against steps, frames and time."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import EngFormatter

from sdqn_lab.analysis.comparison import Comparison
from sdqn_lab.analysis.figures import Figure, Look, legend, looks, panels
from sdqn_lab.analysis.records import SCORE, Array
from sdqn_lab.analysis.report.section import Section
from sdqn_lab.analysis.run import OVERSHOOT, Run
from sdqn_lab.analysis.statistics import resampled


def learning(comparison: Comparison) -> Section:
    """Per game a panel, against agent steps (and frames) and against wall-clock time."""
    if not any(run.evaluations for run in comparison.runs):
        return Section("learning", "Learning curves", ["No run was evaluated yet."])
    figures = [learning_curves(comparison), _over_time(comparison)]
    return Section("learning", "Learning curves", items=figures)


def learning_curves(comparison: Comparison) -> Figure:
    """Evaluation returns against agent steps; the axis above counts emulator frames."""
    canvas, axes = _curves(comparison, "step", 1.0, "agent steps")
    for panel, task in zip(axes, comparison.begun, strict=True):
        panel.xaxis.set_major_formatter(EngFormatter(sep=""))
        _frames_above(panel, [run for arm in comparison.arms for run in comparison.of(task, arm)])
    caption = f"{_BAND} {_seeds(comparison)}"
    return Figure("learning-curves", "Learning curves", caption, canvas)


def _over_time(comparison: Comparison) -> Figure:
    canvas, _ = _curves(comparison, "wall_seconds", 60.0, "minutes")
    machines = ", ".join(sorted({machine(run) for run in comparison.runs if run.evaluations}))
    caption = (
        f"The same against wall-clock time of the run, all attempts together. {_BAND} Comparable "
        f"only where machines and what else they did were alike; these runs: {machines}."
    )
    return Figure("learning-curves-time", "Learning curves over time", caption, canvas)


def _curves(comparison: Comparison, key: str, unit: float, label: str) -> tuple[Canvas, list[Axes]]:
    """A panel a task, a line an arm, against a key of the records in some unit."""
    canvas, axes = panels([str(task) for task in comparison.begun])
    for panel, task in zip(axes, comparison.begun, strict=True):
        for arm, look in looks(comparison).items():
            _line(panel, comparison.of(task, arm), key, unit, look)
        panel.set_xlabel(label)
    canvas.supylabel("evaluation return, game points", fontsize=9)
    legend(canvas, looks(comparison))
    return canvas, axes


SEED, REPETITIONS = 0, 500
"""Of the bootstrap behind the bands."""
MOST_MARKERS = 15
_BAND = (
    "Line: mean over seeds; band: 95% percentile interval of its bootstrap over seeds, pointwise; "
    "pale: not all seeds have been there."
)


def _seeds(comparison: Comparison) -> str:
    counts = {len([r for r in runs if r.evaluations]) for runs in comparison.cells.values()} - {0}
    if not counts:
        return ""
    told = f"{min(counts)}" if len(counts) == 1 else f"{min(counts)} to {max(counts)}"
    return f"Seeds an arm and game: {told}."


def _line(panel: Axes, runs: Sequence[Run], key: str, unit: float, look: Look) -> None:
    """Seeds are read off at the same places: the evaluations of the run that goes furthest.

    Before the first of them, those of the others.
    """
    runs = [run for run in runs if run.evaluations]
    if not runs:
        return
    places = [_told(run, key) for run in runs]
    furthest = max(places, key=lambda at: (at[-1], len(at)))
    others = np.unique(np.concatenate(places))
    grid = np.concatenate([others[others < (1 - OVERSHOOT) * furthest[0]], furthest])
    values = np.stack([_at(grid, run, key) for run in runs])
    x, mean, partly = grid / unit, np.nanmean(values, 0), np.asarray(np.isnan(values).any(0))
    edges = np.pad(partly, 1)
    pale = partly | edges[:-2] | edges[2:]  # with the points that their lines lead to
    marks = max(1, len(x) // MOST_MARKERS)
    style: Any = {"color": look.color, "ls": look.dash, "marker": look.marker, "ms": 3}
    panel.plot(x, np.where(partly, np.nan, mean), markevery=marks, **style)
    faint = np.where(pale, mean, np.nan)
    panel.plot(x, faint, markevery=marks, alpha=0.35, linewidth=1, **style)
    low, high = np.transpose([_interval_of_mean(at[~np.isnan(at)]) for at in values.T])
    panel.fill_between(x, low, high, color=look.color, alpha=0.15, linewidth=0)


def _told(run: Run, key: str) -> Array:
    return np.array([record[key] for record in run.evaluations], float)


def _at(grid: Array, run: Run, key: str) -> Array:
    """A run's evaluations at these places."""
    return read_off(grid, _told(run, key), _told(run, SCORE))


def read_off(grid: Array, at: Array, values: Array) -> Array:
    """A curve at these places; not a number where it has not been, give or take a vector step."""
    been = (grid >= at[0] * (1 - OVERSHOOT)) & (grid <= at[-1] * (1 + OVERSHOOT))
    return np.where(been, np.interp(grid, at, values), np.nan)


def _interval_of_mean(values: Array) -> tuple[float, float]:
    """Not a number where a single seed tells nothing of the spread."""
    if len(values) < 2:
        return np.nan, np.nan
    drawn = resampled(values, np.random.default_rng(SEED), REPETITIONS).mean(-1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def _frames_above(panel: Axes, runs: Sequence[Run]) -> None:
    """A second axis where a step is more than one frame."""
    frames = max((run.frames_per_step for run in runs), default=1)
    if frames == 1:
        return
    scale = (lambda steps: np.asarray(steps) * frames, lambda seen: np.asarray(seen) / frames)
    above = panel.secondary_xaxis("top", scale)
    above.xaxis.set_major_formatter(EngFormatter(sep=""))
    above.set_xlabel("emulator frames", fontsize=8)


def machine(run: Run) -> str:
    """The hardware that a run was made on, in words."""
    facts = run.attempt()
    gpus = facts.get("gpus") or []
    where = gpus[0] if gpus else f"{facts.get('cpu', 'unknown machine')}"
    threads = facts.get("threads") if not gpus else None
    noun = "thread" if threads == 1 else "threads"
    return f"{where}, {threads} {noun}" if threads else where


def steps_per_second(run: Run) -> Array:
    """Speed at every record kept."""
    return run.records.series("time/steps_per_second")[1]
