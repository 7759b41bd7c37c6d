"""Who wins: scores of every arm in every game, and what others have printed."""

from collections.abc import Sequence
from itertools import product

import numpy as np
import pandas as pd

from sdqn_lab.analysis.comparison import NAME, Comparison
from sdqn_lab.analysis.figures import Figure, looks, name_ticks, panels
from sdqn_lab.analysis.literature import Result, columns
from sdqn_lab.analysis.scoring import Scores
from sdqn_lab.analysis.sections.section import Section, Table
from sdqn_lab.analysis.statistics import Array
from sdqn_lab.analysis.stored_run import ORIGINS
from sdqn_lab.analysis.text import value_text, with_spread
from sdqn_lab.envs.scores import scale_of
from sdqn_lab.runs.objective import LAST_SHARE

CLASS = "._target_"
"""Ends the key of an option's class, which follows from the option unless it varies by itself."""
NOTHING = "-"
"""The value of what means nothing to an arm's neurons."""


def score_tables(scores: Scores, literature: Sequence[Result]) -> Section:
    """Tables of scores, a figure with a dot for every seed, and reference rows apart."""
    comparison = scores.comparison
    by_rules: dict[tuple[str, str], list[str]] = {}
    for task in comparison.tasks:
        by_rules.setdefault((task.protocol, task.rules), []).append(task.game)
    remarks = []
    for (name, rules), games in by_rules.items():
        of = f" of {', '.join(games)}" if len(by_rules) > 1 else ""
        remarks.append(f"Protocol {name}{of}: {rules}.")
    for task in scores.interim:
        at = f"compared at {scores.steps[task]:,} agent steps; these numbers will move"
        state = at if scores.steps[task] else "no score yet"
        remarks.append(f"{task}: no run is finished, {state}.")
    items: list[Table | Figure] = [_scores(scores)]
    if comparison.begun:
        items.append(_dots(scores))
    if arms := _arms(comparison):
        items.append(arms)
    known = columns(literature, comparison.games)
    for place, ((paper, protocol), table) in enumerate(known.items(), start=1):
        caption = (
            f"Protocol: {protocol}. As printed there, mean ± spread as given; another protocol "
            "than ours, so for orientation only."
        )
        if (table == "").any(axis=None):
            caption += " Empty: not known to us; `--literature FILE.csv` fills it."
        title = f"From the literature: {paper}"
        items.append(Table(f"literature-{place}", title, caption, table))
    return Section("who-wins", "Who wins?", remarks, items)


def _scores(scores: Scores) -> Table:
    shown, data = [], []
    for task, arm in product(scores.comparison.tasks, scores.comparison.arms):
        scale = scale_of(task.game)
        last, best = scores.last(task, arm), scores.best(task, arm)
        normalized = scale.normalize(last) if scale else np.array([])
        counted, runs = scores.of(task, arm), len(scores.comparison.of(task, arm))
        of = f"{len(counted)} of {runs}"
        # Where settings are pooled, runs and seeds are counted apart.
        if (seeds := len({score.run.seed for score in counted})) != len(counted):
            of = f"{of} runs, {seeds} different"
        shown.append(
            {
                **{"game": str(task), "arm": str(arm), "seeds": of},
                "agent steps": f"{scores.steps[task]:,}",
                "last window": with_spread(last),
                "best": with_spread(best),
                "normalized": with_spread(normalized),
            }
        )
        data.append(
            {
                "game": task.game,
                "protocol": task.protocol,
                "rules": task.rules,
                "arm": str(arm),
                "seeds": len(last),
                "runs": runs,
                "agent_steps": scores.steps[task],
                **_moments("last", last),
                **_moments("best", best),
                **_moments("normalized", normalized),
            }
        )
    protocols = ", ".join(sorted({task.protocol for task in scores.comparison.tasks}))
    caption = (
        "Mean ± standard deviation over seeds (n-1), unclipped returns in game points. last "
        f"window: mean of each seed's evaluations in the last {LAST_SHARE:.0%} of the steps "
        "compared; best: the highest evaluation of each seed, the largest of many noisy numbers "
        "and above what the arm can be relied on for; normalized: last window, 0 a random "
        "player, 1 a human player (Atari) or Xu et al.'s DQN after 5M transitions (MinAtar). "
        "seeds: runs that are as long as the comparison, of all runs; the others are named under "
        f"the missing ones. Protocols: {protocols}."
    )
    return Table("scores", "Scores", caption, pd.DataFrame(shown), pd.DataFrame(data))


def _moments(name: str, values: Array) -> dict[str, float | None]:
    mean = float(values.mean()) if len(values) else None
    std = float(values.std(ddof=1)) if len(values) > 1 else None
    return {f"{name}_mean": mean, f"{name}_std": std}


def _arms(comparison: Comparison) -> Table | None:
    """Every setting in which arms differ: also those that follow from, or hide behind, others."""
    keys = dict.fromkeys(
        key
        for options in (
            [a for a in ORIGINS if a in comparison.axes],
            *(r.options for r in comparison.runs),
        )
        for key in options
        if key in comparison.axes or not (key == NAME or key.endswith(CLASS))
    )
    rows = []
    for arm in comparison.arms:
        row = {"arm": str(arm)}
        for key in keys:
            values = [run.option(key) for run in comparison.runs_of(arm)]
            # Games of several families may need different values of one setting.
            texts = {NOTHING if value is None else value_text(value) for value in values}
            row[key] = " or ".join(sorted(texts))
        rows.append(row)
    # An arm to which a setting means nothing does not differ in it.
    different = [key for key in keys if len({row[key] for row in rows} - {NOTHING}) > 1]
    if not different:
        return None
    beside = [key for key in different if key not in comparison.axes]
    caption = (
        f"Arms are distinguished by {', '.join(comparison.axes)}"
        f"{'; they also differ in ' if beside else ''}{', '.join(beside)}. "
        "A dash: it means nothing to the arm's neurons."
    )
    table = pd.DataFrame(rows)[["arm", *different]]
    return Table("arms", "What the arms are", caption, table)


def _dots(scores: Scores) -> Figure:
    comparison = scores.comparison
    canvas, axes = panels([str(task) for task in comparison.begun])
    for panel, task in zip(axes, comparison.begun, strict=True):
        for place, (arm, look) in enumerate(looks(comparison).items()):
            values = scores.last(task, arm)
            # Side by side, or equal scores would look like one seed.
            spread = np.linspace(-0.15, 0.15, len(values)) if len(values) > 1 else np.zeros(1)
            at = place + spread[: len(values)]
            panel.plot(at, values, look.marker, color=look.color, alpha=0.7)
            if len(values):
                panel.hlines(values.mean(), place - 0.3, place + 0.3, color=look.color)
        name_ticks(panel, [str(arm) for arm in comparison.arms])
        panel.set_xlim(-0.6, len(comparison.arms) - 0.4)
    canvas.supylabel("return of the last window, game points", fontsize=9)
    steps = "; ".join(f"{task} {scores.steps[task]:,}" for task in comparison.begun)
    caption = f"A mark is a seed, the line their mean. Agent steps compared: {steps}."
    return Figure("scores", "Every seed's score", caption, canvas)
