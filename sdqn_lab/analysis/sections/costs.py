"""What it costs: parameters, synaptic operations, energy per decision, training speed."""

from dataclasses import asdict

import numpy as np
import pandas as pd

from sdqn_lab.analysis.comparison import Comparison
from sdqn_lab.analysis.energy import HOROWITZ, cost
from sdqn_lab.analysis.figures import Figure, looks, name_ticks, panels
from sdqn_lab.analysis.scoring import Scores
from sdqn_lab.analysis.sections.section import Section, Table
from sdqn_lab.analysis.text import number

COUNTED = {
    "parameters": "parameters",
    "mac": "MAC",
    "mac_every_step": "MAC, first map every step",
    "ac": "AC",
    "energy_nj": "nJ",
    "energy_every_step_nj": "nJ, first map every step",
    "dense_energy_nj": "nJ, dense",
}
COLUMNS = ("parameters", "mac", "mac_every_step", "ac", "dense_mac", *list(COUNTED)[4:])
ENERGIES = {
    "energy_nj": "first map once",
    "energy_every_step_nj": "first map at every step",
    "dense_energy_nj": "dense: every input counted, all multiply-adds",
}


def costs(scores: Scores) -> Section:
    """Costs of every arm beside those of the baseline, by the same counter."""
    comparison, rows = scores.comparison, []
    for task, arm in ((task, arm) for task in comparison.tasks for arm in comparison.arms):
        for run in (score.run for score in scores.of(task, arm)):
            row = {"game": str(task), "arm": str(arm), "run": run.path.name}
            # The median, because a rate may hold the time of an evaluation or a checkpoint too.
            speeds = run.records.series("time/steps_per_second")[1]
            rows.append(
                row
                | (asdict(cost(run.probe)) if run.probe else dict.fromkeys(COLUMNS))
                | {
                    "steps_per_second": float(np.median(speeds)) if len(speeds) else np.nan,
                    "machine": run.machine,
                }
            )
    if not rows:
        return Section("costs", "What does it cost?", ["No run has a score yet."])
    frame = pd.DataFrame(rows)
    items: list[Table | Figure] = [_table(comparison, frame)]
    remarks = _left_out(frame, "steps_per_second", "Training speed", "not known of every arm")
    known = frame["energy_nj"].notna()
    if known.any() and not known.all():
        remarks.append(
            f"Operations and energy are those of {known.sum()} of {len(frame)} runs: the others "
            "have no probe.json."
        )
    if not known.any():
        remarks.append("No run has a probe.json, so operations and energy are not known.")
    # Arms counted in other games would be compared by the size of these.
    elif not _shared(frame, "energy_nj"):
        remarks.append("No game was counted for every arm: operations and energy stay uncompared.")
    else:
        remarks += _left_out(
            frame, "energy_nj", "Operations and energy", "not counted for every arm"
        )
        items.append(_figure(comparison, frame))
    return Section("costs", "What does it cost?", remarks, items)


def _left_out(frame: pd.DataFrame, key: str, what: str, why: str) -> list[str]:
    """Names the games without which arms are compared."""
    left = sorted(set(frame["game"]) - set(_shared(frame, key)))
    return [f"{what} without {', '.join(left)}: {why}."] if left else []


def _shared(frame: pd.DataFrame, key: str) -> list[str]:
    """The games in which a number is known of every arm."""
    counted = frame.dropna(subset=key).groupby("game")["arm"].nunique()
    return list(counted[counted == frame["arm"].nunique()].index)


def _table(comparison: Comparison, frame: pd.DataFrame) -> Table:
    counted = frame[frame["game"].isin(_shared(frame, "energy_nj"))]
    timed = frame[frame["game"].isin(_shared(frame, "steps_per_second"))]
    energy = counted.groupby(["arm", "game"])["energy_nj"].mean().unstack("game")
    baseline, shown = str(comparison.baseline), []
    for arm in map(str, comparison.arms):
        of_arm = counted.loc[counted["arm"] == arm, "energy_nj"]
        known = arm in energy.index and baseline in energy.index
        # The ratio is taken within each game, because games differ in the size of their networks.
        ratio = f"{(energy.loc[arm] / energy.loc[baseline]).mean():.2f}" if known else "-"
        shown.append(
            {
                "arm": arm,
                "runs counted": f"{of_arm.notna().sum()} of {len(of_arm)}",
                **{heading: _over_games(counted, arm, key) for key, heading in COUNTED.items()},
                f"nJ / that of {baseline}": ratio,
                "training steps/s": _over_games(timed, arm, "steps_per_second"),
            }
        )
    caption = (
        "Per decision, counted exactly at each run's last probe (a remembered batch): mean over "
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


def _over_games(frame: pd.DataFrame, arm: str, key: str) -> str:
    """`36.1 (33 to 39.2)`: games differ in size, so the spread is within each, then averaged."""
    found = frame[frame["arm"] == arm].groupby("game")[key].agg(["mean", "min", "max"]).dropna()
    if found.empty:
        return "-"
    middle, low, high = (number(value) for value in found.mean())
    return middle if low == high else f"{middle} ({low} to {high})"


def _figure(comparison: Comparison, frame: pd.DataFrame) -> Figure:
    counted = frame[frame["game"].isin(_shared(frame, "energy_nj"))]
    names = [arm for arm in map(str, comparison.arms) if arm in set(counted["arm"])]
    colors = {str(arm): look.color for arm, look in looks(comparison).items()}
    canvas, axes = panels(list(ENERGIES.values()), sharey=True)
    for panel, key in zip(axes, ENERGIES, strict=True):
        of = counted.groupby(["arm", "game"])[key].agg(["mean", "min", "max"]).groupby("arm").mean()
        middle, low, high = of.loc[names].to_numpy(float).T
        bars = [colors[name] for name in names]
        # Rounding may put a mean a little outside of its equal ends.
        whiskers = np.abs([low - middle, high - middle])
        panel.bar(range(len(names)), middle, color=bars, yerr=whiskers, capsize=3)
        name_ticks(panel, names)
    canvas.supylabel("nJ per decision", fontsize=9)
    caption = (
        "Energy of the linear maps per decision, mean over games, whiskers: lowest to highest "
        f"seed; by {HOROWITZ.name}. Left and middle skip zeros, of spikes and of ReLU alike; right "
        "counts every input as a multiply-add."
    )
    return Figure("energy", "Energy per decision", caption, canvas)
