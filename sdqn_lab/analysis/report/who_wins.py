"""Who wins: scores of every arm in every game, and what others have printed."""

from collections.abc import Sequence
from math import floor, log10
from typing import Any

import numpy as np
import pandas as pd

from sdqn_lab.analysis.comparison import NAME, Arm, Comparison, Task, in_words
from sdqn_lab.analysis.figures import Figure, looks, panels
from sdqn_lab.analysis.literature import Result, columns
from sdqn_lab.analysis.records import Array
from sdqn_lab.analysis.report.section import Section
from sdqn_lab.analysis.scores import LAST_SHARE, Scores
from sdqn_lab.analysis.tables import Table
from sdqn_lab.envs.scores import scale_of


def who_wins(scores: Scores, literature: Sequence[Result]) -> Section:
    """Tables of scores, a figure with a dot for every seed, and reference rows apart."""
    remarks = _protocols(scores)
    for task in scores.interim:
        at = f"compared at {scores.steps[task]:,} agent steps; these numbers will move"
        remarks.append(
            f"{task}: no run is finished, {at if scores.steps[task] else 'no score yet'}."
        )
    arms = [table] if (table := _arms(scores.comparison)) is not None else []
    known = columns(literature, scores.comparison.games)
    references = [_reference(place, *item) for place, item in enumerate(known.items(), start=1)]
    figures = [_figure(scores)] if scores.comparison.begun else []
    return Section("who-wins", "Who wins?", remarks, [_table(scores), *figures, *arms, *references])


def _protocols(scores: Scores) -> list[str]:
    """Every set of rules, and where there are several the games that are played by it."""
    by_rules: dict[tuple[str, str], list[str]] = {}
    for task in scores.comparison.tasks:
        by_rules.setdefault((task.protocol, task.rules), []).append(task.game)
    one = len(by_rules) == 1
    return [
        f"Protocol {name}: {rules}." if one else f"Protocol {name} of {', '.join(games)}: {rules}."
        for (name, rules), games in by_rules.items()
    ]


def _table(scores: Scores) -> Table:
    comparison = scores.comparison
    shown, data = [], []
    for task in comparison.tasks:
        scale = scale_of(task.game)
        for arm in comparison.arms:
            runs = comparison.of(task, arm)
            last, best = scores.last(task, arm), scores.best(task, arm)
            shown.append(
                {
                    "game": str(task),
                    "arm": str(arm),
                    "seeds": _seeds(scores, task, arm),
                    "agent steps": f"{scores.steps[task]:,}",
                    "last window": with_spread(last),
                    "best": with_spread(best),
                    "normalized": with_spread(scale.normalize(last)) if scale else "-",
                }
            )
            data.append(
                {
                    "game": task.game,
                    "protocol": task.protocol,
                    "rules": task.rules,
                    "arm": str(arm),
                    "seeds": len(last),
                    "runs": len(runs),
                    "agent_steps": scores.steps[task],
                    **_numbers("last", last),
                    **_numbers("best", best),
                    **_numbers("normalized", scale.normalize(last) if scale else np.array([])),
                }
            )
    caption = (
        "Mean ± standard deviation over seeds (n-1), unclipped returns in game points. last "
        f"window: mean of each seed's evaluations in the last {LAST_SHARE:.0%} of the steps "
        "compared; best: the highest evaluation of each seed, the largest of many noisy numbers "
        "and above what the arm can be relied on for; normalized: last window, 0 a random "
        "player, 1 a human player (Atari) or Xu et al.'s DQN after 5M transitions (MinAtar). "
        "seeds: runs that are as long as the comparison, of all runs; the others are named under "
        "the missing ones. Protocols: "
        f"{', '.join(sorted({task.protocol for task in comparison.tasks}))}."
    )
    return Table("scores", "Scores", caption, pd.DataFrame(shown), pd.DataFrame(data))


def _seeds(scores: Scores, task: Task, arm: Arm) -> str:
    """``3 of 5``; where settings are pooled, runs and seeds are told apart."""
    counted = scores.of(task, arm)
    of = f"{len(counted)} of {len(scores.comparison.of(task, arm))}"
    seeds = len({score.run.seed for score in counted})
    return of if seeds == len(counted) else f"{of} runs, {seeds} different"


def with_spread(values: Array) -> str:
    """``3.20 ± 0.41``; one seed has no spread, and says so."""
    if not len(values):
        return "-"
    if len(values) == 1:
        return f"{number(values[0])} (one seed)"
    spread = values.std(ddof=1)
    if spread <= EXACT * np.abs(values).max():
        return f"{number(values.mean())} ± 0"
    digits = max(0, 1 - floor(log10(spread)))  # two of the spread's, and the mean's to that place
    return f"{values.mean():,.{digits}f} ± {spread:,.{digits}f}"


def number(value: float) -> str:
    """Three digits, and more where the number is larger than that."""
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.3g}"


def _numbers(name: str, values: Array) -> dict[str, float | None]:
    mean = float(values.mean()) if len(values) else None
    std = float(values.std(ddof=1)) if len(values) > 1 else None
    return {f"{name}_mean": mean, f"{name}_std": std}


CLASS = "._target_"
"""Ends the key of an option's class, which follows from the option unless it varies by itself."""
EXACT = 1e-9
"""Scores that differ by this share of themselves differ by rounding."""
NOTHING = "-"
"""The value of what means nothing to an arm's neurons."""


def _arms(comparison: Comparison) -> Table | None:
    """Every setting in which arms differ: also those that follow from, or hide behind, others."""
    keys = dict.fromkeys(
        key
        for run in comparison.runs
        for key in run.options
        if key in comparison.axes or not (key == NAME or key.endswith(CLASS))
    )
    told = {arm: {key: _values(comparison, arm, key) for key in keys} for arm in comparison.arms}
    different = [key for key in keys if len({v[key] for v in told.values()} - {(NOTHING,)}) > 1]
    if not different:
        return None
    rows = [
        {"arm": str(arm), **{key: " or ".join(values[key]) for key in different}}
        for arm, values in told.items()
    ]
    beside = [key for key in different if key not in comparison.axes]
    caption = (
        f"Arms are told apart by {', '.join(comparison.axes)}"
        f"{'; they also differ in ' if beside else ''}{', '.join(beside)}. "
        "A dash: it means nothing to the arm's neurons."
    )
    return Table("arms", "What the arms are", caption, pd.DataFrame(rows))


def _values(comparison: Comparison, arm: Arm, key: str) -> tuple[str, ...]:
    """Those that an arm's runs have; games of several families may need different ones."""
    runs = [run for task in comparison.tasks for run in comparison.of(task, arm)]
    return tuple(sorted({_word(run.options.get(key)) for run in runs}))


def _word(value: Any) -> str:
    return NOTHING if value is None else in_words(value)


def _figure(scores: Scores) -> Figure:
    comparison = scores.comparison
    canvas, axes = panels([str(task) for task in comparison.begun])
    names = [str(arm) for arm in comparison.arms]
    for panel, task in zip(axes, comparison.begun, strict=True):
        for place, (arm, look) in enumerate(looks(comparison).items()):
            values = scores.last(task, arm)
            spread = np.linspace(-0.15, 0.15, len(values)) if len(values) > 1 else np.zeros(1)
            panel.plot(
                place + spread[: len(values)], values, look.marker, color=look.color, alpha=0.7
            )
            if len(values):
                panel.hlines(values.mean(), place - 0.3, place + 0.3, color=look.color)
        panel.set_xticks(
            range(len(names)), names, rotation=25 if len(names) < 7 else 90, ha="right"
        )
        panel.set_xlim(-0.6, len(names) - 0.4)
    canvas.supylabel("return of the last window, game points", fontsize=9)
    caption = "A mark is a seed, the line their mean. Agent steps compared: " + "; ".join(
        f"{task} {scores.steps[task]:,}" for task in comparison.begun
    )
    return Figure("scores", "Every seed's score", caption + ".", canvas)


def _reference(place: int, source: tuple[str, str], table: pd.DataFrame) -> Table:
    paper, protocol = source
    caption = (
        f"Protocol: {protocol}. As printed there, mean ± spread as given; another protocol than "
        "ours, so for orientation only."
    )
    if (table == "").any(axis=None):
        caption += " Empty: not known to us; `--literature FILE.csv` fills it."
    title = f"From the literature: {paper}"
    return Table(f"literature-{place}", title, caption, table)
