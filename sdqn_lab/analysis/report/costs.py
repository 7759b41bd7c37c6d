"""What it costs: parameters, synaptic operations, energy per decision, training speed."""

from dataclasses import asdict, fields
from typing import Any

import numpy as np
import pandas as pd

from sdqn_lab.analysis.comparison import Comparison
from sdqn_lab.analysis.energy import HOROWITZ, Cost, cost
from sdqn_lab.analysis.figures import Figure, looks, panels
from sdqn_lab.analysis.records import Array
from sdqn_lab.analysis.report.learning import machine, steps_per_second
from sdqn_lab.analysis.report.section import Section
from sdqn_lab.analysis.report.who_wins import number
from sdqn_lab.analysis.run import Run
from sdqn_lab.analysis.scores import Scores
from sdqn_lab.analysis.tables import Table

COUNTED = {
    "parameters": "parameters",
    "mac": "MAC",
    "mac_every_step": "MAC, first map every step",
    "ac": "AC",
    "energy_nj": "nJ",
    "energy_every_step_nj": "nJ, first map every step",
    "dense_energy_nj": "nJ, dense",
}
ENERGIES = {
    "energy_nj": "first map once",
    "energy_every_step_nj": "first map at every step",
    "dense_energy_nj": "dense: every input counted, all multiply-adds",
}


def costs(scores: Scores) -> Section:
    """Costs of every arm beside those of the baseline, by the same counter."""
    frame = _frame(scores)
    if frame.empty:
        return Section("costs", "What does it cost?", ["No run has a score yet."])
    items: list[Table | Figure] = [_table(scores.comparison, frame)]
    remarks = _left(frame, "steps_per_second", "Training speed", "not known of every arm")
    if not frame["energy_nj"].notna().any():
        remarks.append("No run has a probe.json, so operations and energy are not known.")
    elif not _shared(frame):
        remarks.append("No game was counted for every arm: operations and energy stay uncompared.")
    else:
        remarks += _left(frame, "energy_nj", "Operations and energy", "not counted for every arm")
        items.append(_figure(scores.comparison, frame))
    return Section("costs", "What does it cost?", remarks, items)


def _left(frame: pd.DataFrame, key: str, what: str, why: str) -> list[str]:
    """Names the games without which arms are compared."""
    left = sorted(set(frame["game"]) - set(_shared(frame, key)))
    return [f"{what} without {', '.join(left)}: {why}."] if left else []


def _cost(run: Run) -> dict[str, Any]:
    """Empty where nothing was counted."""
    if run.probe is None:
        return dict.fromkeys(field.name for field in fields(Cost))
    return asdict(cost(run.probe))


def _frame(scores: Scores) -> pd.DataFrame:
    """A row for each run that has a score."""
    comparison = scores.comparison
    rows = [
        {
            "game": str(task),
            "arm": str(arm),
            "run": score.run.path.name,
            **_cost(score.run),
            "steps_per_second": _median(steps_per_second(score.run)),
            "machine": machine(score.run),
        }
        for task in comparison.tasks
        for arm in comparison.arms
        for score in scores.of(task, arm)
    ]
    return pd.DataFrame(rows)


def _median(values: Array) -> float:
    return float(np.median(values)) if len(values) else np.nan


def _shared(frame: pd.DataFrame, key: str = "energy_nj") -> list[str]:
    """The games in which a number is known of every arm."""
    counted = frame.dropna(subset=key).groupby("game")["arm"].nunique()
    return list(counted[counted == frame["arm"].nunique()].index)


def _table(comparison: Comparison, frame: pd.DataFrame) -> Table:
    counted = frame[frame["game"].isin(_shared(frame))]
    timed = frame[frame["game"].isin(_shared(frame, "steps_per_second"))]
    shown = [
        {
            "arm": arm,
            "runs counted": f"{counted.loc[counted['arm'] == arm, 'energy_nj'].notna().sum()}",
            **{heading: over_games(counted, arm, key) for key, heading in COUNTED.items()},
            f"nJ / that of {comparison.baseline}": _ratio(counted, arm, str(comparison.baseline)),
            "training steps/s": over_games(timed, arm, "steps_per_second"),
        }
        for arm in map(str, comparison.arms)
    ]
    caption = (
        "Per decision, counted exactly at each run's last probe (a batch of its replay): mean over "
        "games of the mean over seeds, and the lowest to highest seed's mean over games. MAC: "
        "multiply-adds with an input that is a number and not zero; AC: additions for spikes. "
        "The first layer sees the image: its map runs once for a constant input, as here, or at "
        "every step, as the original does. nJ, dense: as if no zero were skipped and every "
        f"operation were a MAC. Energy by {HOROWITZ.name}: MAC {HOROWITZ.mac_pj} pJ, AC "
        f"{HOROWITZ.ac_pj} pJ: arithmetic of the linear maps only, without memory, norm and "
        "neurons. Training steps per second: median over the run, agent steps, in games in "
        "which that of every arm is known; machines: "
        f"{', '.join(sorted(frame['machine'].unique()))}."
    )
    return Table("costs", "Costs by arm", caption, pd.DataFrame(shown), frame)


def over_games(frame: pd.DataFrame, arm: str, key: str) -> str:
    """``36.1 (33 to 39.2)``: games differ in size, so the spread is within each, then averaged."""
    found = frame[frame["arm"] == arm].groupby("game")[key].agg(["mean", "min", "max"]).dropna()
    if found.empty:
        return "-"
    middle, low, high = (number(value) for value in found.mean())
    return middle if low == high else f"{middle} ({low} to {high})"


def _ratio(frame: pd.DataFrame, arm: str, baseline: str) -> str:
    """Mean over games."""
    energy = frame.groupby(["arm", "game"])["energy_nj"].mean().unstack("game")
    if arm not in energy.index or baseline not in energy.index:
        return "-"
    return f"{(energy.loc[arm] / energy.loc[baseline]).mean():.2f}"


def _figure(comparison: Comparison, frame: pd.DataFrame) -> Figure:
    counted = frame[frame["game"].isin(_shared(frame))]
    names = [arm for arm in map(str, comparison.arms) if arm in set(counted["arm"])]
    colors = {str(arm): look.color for arm, look in looks(comparison).items()}
    canvas, axes = panels(list(ENERGIES.values()), sharey=True)
    for panel, key in zip(axes, ENERGIES, strict=True):
        of = counted.groupby(["arm", "game"])[key].agg(["mean", "min", "max"]).groupby("arm").mean()
        of = of.loc[names]
        ends = np.abs(of[["min", "max"]].to_numpy(float) - of[["mean"]].to_numpy(float)).T
        heights = of["mean"].to_numpy(float)
        panel.bar(names, heights, color=[colors[name] for name in names], yerr=ends, capsize=3)
        panel.tick_params(axis="x", rotation=25 if len(names) < 7 else 90)
    canvas.supylabel("nJ per decision", fontsize=9)
    caption = (
        "Energy of the linear maps per decision, mean over games, whiskers: lowest to highest "
        f"seed; by {HOROWITZ.name}. Left and middle skip zeros, of spikes and of ReLU alike; right "
        "counts every input as a multiply-add."
    )
    return Figure("energy", "Energy per decision", caption, canvas)
