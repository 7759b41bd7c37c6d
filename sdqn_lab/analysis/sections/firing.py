"""Inside the network: firing by layer, silent and saturated units, potentials around the norm."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter

from sdqn_lab.analysis.comparison import Arm, Comparison, Task
from sdqn_lab.analysis.figures import Figure, Look, legend, looks, matrix, panels
from sdqn_lab.analysis.forms import LIMIT
from sdqn_lab.analysis.scoring import Scores
from sdqn_lab.analysis.sections.section import Section, Table
from sdqn_lab.analysis.statistics import Array
from sdqn_lab.analysis.stored_run import FIRING, Run, read_off
from sdqn_lab.analysis.text import with_range

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
AGE = "of runs long enough for a score, or where an arm has none in a game, of all"
OF_RELU = "of the ANN baseline: the share of active units, and always a single step"


def firing(scores: Scores) -> Section:
    """What spikes do in every layer."""
    comparison = scores.comparison
    layers = _layers(comparison.runs)
    if not layers or not comparison.begun:
        return Section("inside", "Inside the network", ["No run has recorded its firing yet."])
    items: list[Table | Figure] = [
        *_events(comparison),
        _rates(scores, layers),
        _draw_rates(scores),
        _draw_shares(comparison, layers),
    ]
    remarks = []
    if any(run.probe for run in comparison.runs):
        items.append(_draw_potentials(scores, layers))
    else:
        remarks.append("No run has a probe.json, so there are no histograms of its potentials.")
    return Section("inside", "Inside the network", remarks, items)


def _events(comparison: Comparison) -> list[Table]:
    """Which runs reported that a layer died or never became active; empty if none did."""
    rows = [
        {"game": str(task), "arm": str(arm), "run": run.path.name, "event": event}
        for (task, arm), runs in comparison.cells.items()
        for run in runs
        for event in run.records.events
    ]
    if not rows:
        return []
    data = pd.DataFrame(rows)
    grouped = data.groupby(["game", "arm"], sort=False)
    shown = grouped.agg(
        runs=("run", "nunique"), events=("event", "size"), latest=("event", "last")
    ).reset_index()
    caption = (
        "What runs reported of their layers while they trained: in how many runs, how often, and "
        "the latest report of the last of them. health-events.csv holds all, with their runs."
    )
    return [Table("health-events", "Health events", caption, shown, data)]


def _layers(runs: Sequence[Run]) -> list[str]:
    """Those of all runs, each kind by its number: `conv10` after `conv2`, `hidden` after both."""

    def place(layer: str) -> tuple[str, int]:
        name = layer.rstrip("0123456789")
        return name, int(layer[len(name) :] or 0)

    return sorted({layer for run in runs for layer in run.layers}, key=place)


def _old_enough(scores: Scores, task: Task, arm: Arm) -> list[Run]:
    """No run that is too young for a score, unless there is no other."""
    return [score.run for score in scores.of(task, arm)] or scores.comparison.of(task, arm)


def _last(runs: Sequence[Run], layer: str) -> Array:
    """The last firing rate of each run that has the layer."""
    found = [run.last_of(FIRING).get(layer) for run in runs]
    return np.array([rate for rate in found if rate is not None], float)


def _rates(scores: Scores, layers: Sequence[str]) -> Table:
    shown, data = [], []
    for task, arm in scores.comparison.cells:
        if task not in scores.comparison.begun:
            continue
        row = {"game": str(task), "arm": str(arm)}
        rates = {layer: _last(_old_enough(scores, task, arm), layer) for layer in layers}
        shown.append(row | {layer: with_range(values) for layer, values in rates.items()})
        means = {k: float(values.mean()) if len(values) else None for k, values in rates.items()}
        data.append({**row, **means})
    caption = (
        "Share of units that fire per step, at each run's last record: mean over seeds and "
        f"lowest to highest; {AGE}; {OF_RELU}."
    )
    return Table("firing", "Firing rate by layer", caption, pd.DataFrame(shown), pd.DataFrame(data))


def _draw_rates(scores: Scores) -> Figure:
    """Layers from the input on: do the spikes reach the deep ones?"""
    comparison = scores.comparison
    canvas, axes = panels([str(task) for task in comparison.begun], sharey=True)
    arm_looks = looks(comparison)
    for panel, task in zip(axes, comparison.begun, strict=True):
        own = _layers([run for arm in comparison.arms for run in comparison.of(task, arm)])
        for number, (arm, look) in enumerate(arm_looks.items()):
            rates = [_last(_old_enough(scores, task, arm), layer) for layer in own]
            at = [place for place, values in enumerate(rates) if len(values)]
            if not at:
                continue
            middle = np.array([rates[place].mean() for place in at])
            ends = np.array([[rates[p].min() for p in at], [rates[p].max() for p in at]])
            # Arms stand side by side, or whiskers would hide each other.
            x = np.array(at) + 0.06 * (number - (len(arm_looks) - 1) / 2)
            color, dash, marker = look
            panel.errorbar(
                *(x, middle, np.abs(ends - middle)), color=color, marker=marker, ls=dash, ms=4, lw=1
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


def _draw_shares(comparison: Comparison, layers: Sequence[str]) -> Figure:
    canvas, grid = matrix(list(layers), list(SHARES.values()))
    for row, layer in zip(grid, layers, strict=True):
        for panel, key in zip(row, SHARES, strict=True):
            for arm, look in looks(comparison).items():
                series = [r.records.series(f"snn/{key}/{layer}") for r in comparison.runs_of(arm)]
                _draw_mean(panel, [curve for curve in series if len(curve[0])], look)
            panel.set_ylim(-0.02, 1.02 if key != "firing_rate" else None)
            panel.xaxis.set_major_formatter(EngFormatter(sep=""))
    for panel in grid[-1]:
        panel.set_xlabel("agent steps")
    legend(canvas, looks(comparison))
    caption = (
        "Mean over all runs of an arm that have got there, games and seeds together; band: their "
        "middle half. silent: units that fire for no sample at no step of a remembered batch; "
        f"saturated: (sample, unit) pairs active at every step; {OF_RELU}, so there saturated "
        "equals active."
    )
    return Figure("firing-over-training", "Firing over training", caption, canvas)


def _draw_mean(panel: Axes, curves: Sequence[tuple[Array, Array]], look: Look) -> None:
    """The mean over the runs that have got there, and their middle half."""
    if not curves:
        return
    first, last = min(steps[0] for steps, _ in curves), max(steps[-1] for steps, _ in curves)
    grid = np.linspace(first, last, CURVE_POINTS)
    values = np.stack([read_off(grid, *curve) for curve in curves])
    # Between two runs there may be places where none has been.
    seen = (~np.isnan(values)).any(0)
    grid, values = grid[seen], values[:, seen]
    panel.plot(grid, np.nanmean(values, 0), look.dash, color=look.color)
    low, high = np.nanquantile(values, [0.25, 0.75], axis=0)
    panel.fill_between(grid, low, high, color=look.color, alpha=0.15, linewidth=0)


def _draw_potentials(scores: Scores, layers: Sequence[str]) -> Figure:
    comparison = scores.comparison
    canvas, grid = matrix(list(layers), list(POTENTIALS.values()))
    known = 0
    for arm, look in looks(comparison).items():
        runs = [run for task in comparison.tasks for run in _old_enough(scores, task, arm)]
        probes = [run.probe for run in runs if run.probe]
        known += len(probes)
        for row, layer in zip(grid, layers, strict=True):
            of_layer = [one for probe in probes for one in probe["layers"] if one["name"] == layer]
            for panel, key in zip(row, POTENTIALS, strict=True):
                shares = [one[key] for one in of_layer if one[key]]
                if shares:
                    edges = np.linspace(-LIMIT, LIMIT, len(shares[0]) + 1)
                    mean = np.mean(shares, axis=0)
                    panel.stairs(mean, edges, color=look.color, linestyle=look.dash)
    for panel in grid.flat:
        panel.axvline(1.0, color="0.4", linestyle=":", linewidth=1)
        panel.set_ylim(bottom=0)
    for panel in grid[-1]:
        panel.set_xlabel("in units of the threshold")
    legend(canvas, looks(comparison))
    caption = (
        f"Histograms of {known} runs that have a probe.json: mean over the runs of an arm, {AGE}. "
        "Dotted: the threshold, above which a neuron fires. The outer bins hold what lies "
        "beyond. Membrane: after charge and before reset, at all steps; the ANN baseline has none, "
        "and its unit is 1."
    )
    return Figure("potentials", "Potentials around the norm", caption, canvas)
