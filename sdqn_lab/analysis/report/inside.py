"""Inside the network: firing by layer, silent and saturated units, potentials around the norm."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter

from sdqn_lab.analysis.comparison import Arm, Comparison, Task
from sdqn_lab.analysis.figures import Figure, Look, legend, looks, matrix, panels
from sdqn_lab.analysis.records import Array
from sdqn_lab.analysis.report.learning import read_off
from sdqn_lab.analysis.report.section import Section
from sdqn_lab.analysis.run import FIRING, Run
from sdqn_lab.analysis.scores import Scores
from sdqn_lab.analysis.tables import Table

SHARES = {
    "firing_rate": "firing rate",
    "silent_fraction": "silent units",
    "saturated_fraction": "saturated",
}
POTENTIALS = {
    "current": "before the norm",
    "normalized": "after the norm",
    "membrane": "membrane, charged",
}
CURVE_POINTS = 60
HISTOGRAM_LIMIT = 4.0
AGE = "of runs long enough for a score, or where an arm has none in a game, of all"
OF_RELU = "of the artificial twin: the share of active units, and always a single step"


def inside(scores: Scores) -> Section:
    """What spikes do in every layer."""
    comparison = scores.comparison
    layers = _layers(comparison.runs)
    if not layers or not comparison.begun:
        return Section("inside", "Inside the network", ["No run has recorded its firing yet."])
    items: list[Table | Figure] = [
        _rates(scores, layers),
        _rates_figure(scores),
        _shares(comparison, layers),
    ]
    if reported := _events(comparison):
        items.insert(0, reported)
    remarks = []
    if any(run.probe for run in comparison.runs):
        items.append(_potentials(scores, layers))
    else:
        remarks.append("No run has a probe.json, so there are no histograms of its potentials.")
    return Section("inside", "Inside the network", remarks, items)


def _events(comparison: Comparison) -> Table | None:
    """Which runs said themselves that a layer died or never woke."""
    data = pd.DataFrame(
        [
            {"game": str(task), "arm": str(arm), "run": run.path.name, "event": event}
            for (task, arm), runs in comparison.cells.items()
            for run in runs
            for event in run.records.events
        ]
    )
    if data.empty:
        return None
    grouped = data.groupby(["game", "arm"], sort=False)
    shown = grouped.agg(
        runs=("run", "nunique"), events=("event", "size"), latest=("event", "last")
    ).reset_index()
    caption = (
        "What runs reported of their layers while they trained: in how many runs, how often, and "
        "the latest report of the last of them. health-events.csv holds all, with their runs."
    )
    return Table("health-events", "Health events", caption, shown, data)


def _alike(scores: Scores, task: Task, arm: Arm) -> list[Run]:
    """No run that is too young for a score, unless there is no other."""
    scored = [score.run for score in scores.of(task, arm)]
    return scored or scores.comparison.of(task, arm)


def _layers(runs: Sequence[Run]) -> list[str]:
    """Those of all runs, convolutions first and each kind by its number."""
    return sorted({layer for run in runs for layer in run.layers}, key=natural)


def natural(layer: str) -> tuple[str, int]:
    """``conv10`` after ``conv2``, and ``hidden`` after both."""
    name = layer.rstrip("0123456789")
    return name, int(layer[len(name) :] or 0)


def _rates(scores: Scores, layers: Sequence[str]) -> Table:
    shown, data = [], []
    for task, arm in scores.comparison.cells:
        if task not in scores.comparison.begun:
            continue
        runs = _alike(scores, task, arm)
        rates = {layer: _last(runs, layer) for layer in layers}
        row = {layer: in_range(values) for layer, values in rates.items()}
        shown.append({"game": str(task), "arm": str(arm), **row})
        numbers = {layer: values.mean() if len(values) else None for layer, values in rates.items()}
        data.append({"game": str(task), "arm": str(arm), **numbers})
    caption = (
        "Share of units that fire per step, at each run's last record: mean over seeds and "
        f"lowest to highest; {AGE}; {OF_RELU}."
    )
    return Table("firing", "Firing rate by layer", caption, pd.DataFrame(shown), pd.DataFrame(data))


def _last(runs: Sequence[Run], layer: str) -> Array:
    found = [run.last_of(FIRING).get(layer) for run in runs]
    return np.array([rate for rate in found if rate is not None], float)


def in_range(values: Array) -> str:
    """``0.12 (0.10 to 0.15)``."""
    if not len(values):
        return "-"
    if len(values) == 1:
        return f"{values[0]:.3f}"
    return f"{values.mean():.3f} ({values.min():.3f} to {values.max():.3f})"


def _rates_figure(scores: Scores) -> Figure:
    """Layers from the input on: do the spikes reach the deep ones?"""
    comparison = scores.comparison
    canvas, axes = panels([str(task) for task in comparison.begun], sharey=True)
    arm_looks = looks(comparison)
    for panel, task in zip(axes, comparison.begun, strict=True):
        own = _layers([run for arm in comparison.arms for run in comparison.of(task, arm)])
        for number, (arm, look) in enumerate(arm_looks.items()):
            rates = [_last(_alike(scores, task, arm), layer) for layer in own]
            at = [place for place, values in enumerate(rates) if len(values)]
            middle = np.array([rates[place].mean() for place in at])
            ends = np.array([[rates[p].min() for p in at], [rates[p].max() for p in at]])
            x = np.array(at) + 0.06 * (number - (len(arm_looks) - 1) / 2)
            if at:
                whiskers = np.abs(ends - middle)
                panel.errorbar(
                    x,
                    middle,
                    whiskers,
                    color=look.color,
                    marker=look.marker,
                    ls=look.dash,
                    ms=4,
                    lw=1,
                )
        panel.set_xticks(range(len(own)), own)
        panel.set_ylim(bottom=0)
    canvas.supylabel("firing rate", fontsize=9)
    legend(canvas, arm_looks)
    caption = (
        "Share of units that fire per step, by layer from the input on, at each run's last "
        f"record. Mark: mean over seeds, whisker: lowest to highest; {AGE}; {OF_RELU}."
    )
    return Figure("firing", "Firing rate by layer", caption, canvas)


def _shares(comparison: Comparison, layers: Sequence[str]) -> Figure:
    canvas, grid = matrix(list(layers), list(SHARES.values()))
    for row, layer in zip(grid, layers, strict=True):
        for panel, key in zip(row, SHARES, strict=True):
            _over_arms(comparison, panel, f"snn/{key}/{layer}")
            panel.set_ylim(-0.02, 1.02 if key != "firing_rate" else None)
            panel.xaxis.set_major_formatter(EngFormatter(sep=""))
    for panel in grid[-1]:
        panel.set_xlabel("agent steps")
    legend(canvas, looks(comparison))
    caption = (
        "Mean over all runs of an arm that have got there, games and seeds together; band: their "
        "middle half. silent: units that fire for no sample at no step of a batch of replay; "
        f"saturated: (sample, unit) pairs active at every step; {OF_RELU}, so there saturated "
        "equals active."
    )
    return Figure("firing-over-training", "Firing over training", caption, canvas)


def _over_arms(comparison: Comparison, panel: Axes, key: str) -> None:
    for arm, look in looks(comparison).items():
        curves = [
            run.records.series(key) for task in comparison.tasks for run in comparison.of(task, arm)
        ]
        _mean_curve(panel, [curve for curve in curves if len(curve[0])], look)


def _mean_curve(panel: Axes, curves: Sequence[tuple[Array, Array]], look: Look) -> None:
    """The mean over the runs that have got there."""
    if not curves:
        return
    ends = [(steps[0], steps[-1]) for steps, _ in curves]
    grid = np.linspace(min(first for first, _ in ends), max(last for _, last in ends), CURVE_POINTS)
    values = np.stack([read_off(grid, *curve) for curve in curves])
    at, drawn = grid[(~np.isnan(values)).any(0)], values[:, (~np.isnan(values)).any(0)]
    panel.plot(at, np.nanmean(drawn, 0), look.dash, color=look.color)
    low, high = np.nanquantile(drawn, [0.25, 0.75], axis=0)
    panel.fill_between(at, low, high, color=look.color, alpha=0.15, linewidth=0)


def _potentials(scores: Scores, layers: Sequence[str]) -> Figure:
    comparison = scores.comparison
    canvas, grid = matrix(list(layers), list(POTENTIALS.values()))
    known = 0
    for arm, look in looks(comparison).items():
        runs = [r for task in comparison.tasks for r in _alike(scores, task, arm) if r.probe]
        known += len(runs)
        for row, layer in zip(grid, layers, strict=True):
            for panel, key in zip(row, POTENTIALS, strict=True):
                _histogram(panel, _probed(runs, layer, key), look)
    for panel in grid.flat:
        panel.axvline(1.0, color="0.4", linestyle=":", linewidth=1)
        panel.set_ylim(bottom=0)
    for panel in grid[-1]:
        panel.set_xlabel("in units of the threshold")
    legend(canvas, looks(comparison))
    caption = (
        f"Histograms of {known} runs that have a probe.json: mean over the runs of an arm, "
        f"{AGE}. "
        "Dotted: the threshold, above which a neuron fires. The outer bins hold what lies "
        "beyond. Membrane: after charge and before reset, at all steps; the artificial twin has "
        "none, and its unit is 1."
    )
    return Figure("potentials", "Potentials around the norm", caption, canvas)


def _probed(runs: Sequence[Run], layer: str, key: str) -> list[Sequence[float]]:
    layers = [told for run in runs if run.probe for told in run.probe.get("layers", [])]
    return [told[key] for told in layers if told.get("name") == layer and told.get(key)]


def _histogram(panel: Axes, shares: Sequence[Sequence[float]], look: Look) -> None:
    if not shares:
        return
    edges = np.linspace(-HISTOGRAM_LIMIT, HISTOGRAM_LIMIT, len(shares[0]) + 1)
    panel.stairs(np.mean(shares, axis=0), edges, color=look.color, linestyle=look.dash)
