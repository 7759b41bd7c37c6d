"""What it costs: parameters, synaptic operations, energy per decision, training speed."""

from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from sdqn_lab.analysis.comparison import Comparison
from sdqn_lab.analysis.energy import HOROWITZ, Cost, cost
from sdqn_lab.analysis.figures import Figure, looks, panels
from sdqn_lab.analysis.records import Array
from sdqn_lab.analysis.report.learning import machine, steps_per_second
from sdqn_lab.analysis.report.section import Section
from sdqn_lab.analysis.run import Run
from sdqn_lab.analysis.tables import Table

ENERGIES = {
    "energy_nj": "first map once",
    "energy_every_step_nj": "first map at every step",
    "dense_energy_nj": "dense: every input counted, all multiply-adds",
}


def costs(comparison: Comparison) -> Section:
    """Costs of every arm beside those of the baseline, by the same counter."""
    known = {run: told for run in comparison.runs if (told := _cost(comparison, run)) is not None}
    frame = _frame(comparison, known)
    if frame.empty:
        return Section("costs", "What does it cost?", ["No run has begun yet."])
    items: list[Table | Figure] = [_table(comparison, frame)]
    if not known:
        remark = "No run has a probe.json, so operations and energy are not known."
        return Section("costs", "What does it cost?", [remark], items)
    items.append(_figure(comparison, frame))
    return Section("costs", "What does it cost?", _unshared(frame), items)


def _cost(comparison: Comparison, run: Run) -> Cost | None:
    if run.probe is None:
        return None
    try:
        return cost(run.probe)
    except (ValueError, TypeError) as error:
        comparison.warn(run, f"costs left out: {error}")
        return None


def _frame(comparison: Comparison, known: dict[Run, Cost]) -> pd.DataFrame:
    """A row a run."""
    rows = [
        {
            "game": str(task),
            "arm": str(arm),
            "run": run.path.name,
            **(asdict(known[run]) if run in known else {}),
            "steps_per_second": _median(steps_per_second(run)),
            "machine": machine(run),
        }
        for (task, arm), runs in comparison.cells.items()
        for run in runs
        if run.steps
    ]
    return pd.DataFrame(rows)


def _median(values: Array) -> float:
    return float(np.median(values)) if len(values) else np.nan


def _table(comparison: Comparison, frame: pd.DataFrame) -> Table:
    # Games differ in channels and actions: an arm's row is the mean over its games' means.
    by_arm = _by_arm(frame)
    baseline = str(comparison.baseline)
    shown = []
    for arm in map(str, comparison.arms):
        row = by_arm.loc[arm]
        shown.append(
            {
                "arm": arm,
                "runs counted": f"{_counted(frame, arm)}",
                "parameters": _number(row.get("parameters")),
                "MAC": _number(row.get("mac")),
                "MAC, first map every step": _number(row.get("mac_every_step")),
                "AC": _number(row.get("ac")),
                "nJ": _number(row.get("energy_nj")),
                "nJ, first map every step": _number(row.get("energy_every_step_nj")),
                "nJ, dense": _number(row.get("dense_energy_nj")),
                f"nJ / that of {baseline}": _ratio(frame, arm, baseline),
                "training steps/s": _number(row["steps_per_second"]),
            }
        )
    caption = (
        "Per decision, counted exactly at each run's last probe (a batch of its replay), mean "
        "over games. MAC: multiply-adds with an input that is a number and not zero; AC: "
        "additions for spikes. The first layer sees the image: its map runs once for a constant "
        "input, as here, or at every step, as the original does. nJ, dense: as if no zero were "
        f"skipped and every operation were a MAC. Energy by {HOROWITZ.name}: MAC "
        f"{HOROWITZ.mac_pj} pJ, AC {HOROWITZ.ac_pj} pJ: arithmetic of the linear maps only, "
        "without memory, norm and neurons. Training steps per second: median over the run, agent "
        f"steps; machines: {', '.join(sorted(frame['machine'].unique()))}."
    )
    return Table("costs", "Costs by arm", caption, pd.DataFrame(shown), frame)


def _by_arm(frame: pd.DataFrame) -> pd.DataFrame:
    by_game = frame.groupby(["arm", "game"]).mean(numeric_only=True)
    shared = by_game[by_game.index.get_level_values("game").isin(_games(frame))]
    return shared.groupby("arm").mean().reindex(frame["arm"].unique())


def _games(frame: pd.DataFrame) -> list[str]:
    """The games that means are over: those that all arms share, or all if there is none."""
    return _shared(frame) or list(frame["game"].unique())


def _shared(frame: pd.DataFrame) -> list[str]:
    """The games in which every arm that was counted anywhere was counted."""
    if "energy_nj" not in frame:
        return []
    counted = frame.dropna(subset="energy_nj")
    arms = counted.groupby("game")["arm"].nunique()
    return list(arms[arms == counted["arm"].nunique()].index)


def _unshared(frame: pd.DataFrame) -> list[str]:
    """Arms whose games differ are not to be compared, and the reader is told."""
    counted = frame.dropna(subset="energy_nj").groupby("arm")["game"].agg(frozenset)
    if counted.nunique() == 1:
        return []
    over = f"over {', '.join(shared)} alone" if (shared := _shared(frame)) else "not comparable"
    return [f"Not every arm was counted in every game; means are {over}."]


def _counted(frame: pd.DataFrame, arm: str) -> int:
    if "energy_nj" not in frame:
        return 0
    return int(frame.loc[frame["arm"] == arm, "energy_nj"].notna().sum())


def _number(value: Any) -> str:
    if value is None or np.isnan(value):
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _ratio(frame: pd.DataFrame, arm: str, baseline: str) -> str:
    """Mean over the games in which both are known."""
    if "energy_nj" not in frame:
        return "-"
    energy = frame.groupby(["arm", "game"])["energy_nj"].mean().unstack("game")
    ratio = (energy.loc[arm] / energy.loc[baseline]).dropna()
    return f"{ratio.mean():.2f}" if len(ratio) else "-"


def _figure(comparison: Comparison, frame: pd.DataFrame) -> Figure:
    by_arm = _by_arm(frame)
    names = [str(arm) for arm in comparison.arms]
    colors = [look.color for look in looks(comparison).values()]
    canvas, axes = panels(list(ENERGIES.values()), sharey=True)
    for panel, key in zip(axes, ENERGIES, strict=True):
        panel.bar(names, by_arm.loc[names, key].to_numpy(float), color=colors)
        panel.tick_params(axis="x", rotation=25 if len(names) < 7 else 90)
    canvas.supylabel("nJ per decision", fontsize=9)
    caption = (
        f"Energy of the linear maps per decision, mean over games, by {HOROWITZ.name}. Left and "
        "middle skip zeros, of spikes and of ReLU alike; right counts every input as a "
        "multiply-add."
    )
    return Figure("energy", "Energy per decision", caption, canvas)
