"""Learning curves: evaluations against steps, frames and time."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter

from sdqn_lab.analysis.comparison import Comparison
from sdqn_lab.analysis.figures import Figure, Look, legend, looks, panels
from sdqn_lab.analysis.records import SCORE, Array
from sdqn_lab.analysis.report.section import Section
from sdqn_lab.analysis.run import Run
from sdqn_lab.analysis.statistics import resampled


def learning(comparison: Comparison) -> Section:
    """Per game a panel, against agent steps (and frames) and against wall-clock time."""
    if not any(run.evaluations for run in comparison.runs):
        return Section("learning", "Learning curves", ["No run was evaluated yet."])
    figures = [learning_curves(comparison), _over_time(comparison)]
    return Section("learning", "Learning curves", items=figures)


def learning_curves(comparison: Comparison) -> Figure:
    """Evaluation returns against agent steps; the axis above counts emulator frames."""
    canvas, axes = panels([str(task) for task in comparison.begun])
    for panel, task in zip(axes, comparison.begun, strict=True):
        for arm, look in looks(comparison).items():
            _line(panel, comparison.of(task, arm), "step", 1.0, look)
        panel.set_xlabel("agent steps")
        panel.xaxis.set_major_formatter(EngFormatter(sep=""))
        _frames_above(panel, [run for arm in comparison.arms for run in comparison.of(task, arm)])
    canvas.supylabel("evaluation return, game points", fontsize=9)
    legend(canvas, looks(comparison))
    caption = f"{_BAND} {_seeds(comparison)}"
    return Figure("learning-curves", "Learning curves", caption, canvas)


def _over_time(comparison: Comparison) -> Figure:
    canvas, axes = panels([str(task) for task in comparison.begun])
    for panel, task in zip(axes, comparison.begun, strict=True):
        for arm, look in looks(comparison).items():
            _line(panel, comparison.of(task, arm), "wall_seconds", 60.0, look)
        panel.set_xlabel("minutes")
    canvas.supylabel("evaluation return, game points", fontsize=9)
    legend(canvas, looks(comparison))
    machines = ", ".join(sorted({machine(run) for run in comparison.runs if run.evaluations}))
    caption = (
        f"The same against wall-clock time of the run, all attempts together. {_BAND} Comparable "
        f"only where machines and what else they did were alike; these runs: {machines}."
    )
    return Figure("learning-curves-time", "Learning curves over time", caption, canvas)


SEED, REPETITIONS = 0, 500
"""Of the bootstrap behind the bands."""
MOST_MARKERS = 30
_BAND = (
    "Line: mean over seeds; band: 95% percentile interval of its bootstrap over seeds, pointwise; "
    "dotted: fewer seeds than at the start, the others have not got there."
)


def _seeds(comparison: Comparison) -> str:
    counts = {len([r for r in runs if r.evaluations]) for runs in comparison.cells.values()} - {0}
    if not counts:
        return ""
    told = f"{min(counts)}" if len(counts) == 1 else f"{min(counts)} to {max(counts)}"
    return f"Seeds an arm and game: {told}."


def _line(panel: Axes, runs: Sequence[Run], key: str, unit: float, look: Look) -> None:
    """Seeds are lined up by the number of the evaluation."""
    curves = [run.records.evaluations for run in runs if run.evaluations]
    if not curves:
        return
    longest = max(map(len, curves))
    points = [[curve[i] for curve in curves if i < len(curve)] for i in range(longest)]
    x = np.array([np.mean([point[key] for point in at]) for at in points]) / unit
    values = [np.array([point[SCORE] for point in at]) for at in points]
    mean = np.array([v.mean() for v in values])
    whole = sum(len(v) == len(curves) for v in values)
    marker = look.marker if len(x) <= MOST_MARKERS else ""
    panel.plot(x[:whole], mean[:whole], "-", color=look.color, marker=marker, markersize=2.5)
    panel.plot(x[whole - 1 :], mean[whole - 1 :], ":", color=look.color)
    if len(curves) > 1:
        low, high = np.transpose([_interval_of_mean(at) for at in values])
        panel.fill_between(x, low, high, color=look.color, alpha=0.15, linewidth=0)


def _interval_of_mean(values: Array) -> Array:
    drawn = resampled(values, np.random.default_rng(SEED), REPETITIONS).mean(-1)
    return np.asarray(np.quantile(drawn, [0.025, 0.975]))


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
