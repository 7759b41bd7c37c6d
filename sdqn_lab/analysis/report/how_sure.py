"""How sure: aggregates over games and seeds with stratified bootstrap intervals."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, MaxNLocator

from sdqn_lab.analysis import statistics
from sdqn_lab.analysis.comparison import Arm, Task
from sdqn_lab.analysis.figures import Figure, legend, looks, panels
from sdqn_lab.analysis.records import SCORE, Array
from sdqn_lab.analysis.report.section import Section
from sdqn_lab.analysis.run import Run
from sdqn_lab.analysis.scores import Scores, Suite, suites
from sdqn_lab.analysis.statistics import Games, Interval
from sdqn_lab.analysis.tables import Table

SEED = 0
"""Of the bootstrap's own generator: a report of the same runs holds the same numbers."""
FEW_SEEDS = 5
CURVE_POINTS = 30
CURVE_REPETITIONS = 500
PROFILE_POINTS = 100
BOOTSTRAP = (
    f"95% percentile intervals of a stratified bootstrap ({statistics.REPETITIONS:,} draws of runs "
    "within each game)"
)


@dataclass(frozen=True)
class Sample:
    """The scores of a suite that can be aggregated: every arm has played every task of it."""

    suite: Suite
    tasks: list[Task]
    arms: list[Arm]
    games: dict[Arm, list[Array]]
    """(seeds,) for each task."""

    @property
    def seeds(self) -> tuple[int, int]:
        """The fewest and the most seeds of an arm in a game."""
        counts = [len(game) for games in self.games.values() for game in games]
        return min(counts), max(counts)

    @property
    def about(self) -> str:
        """Scale, games and seeds, for a caption."""
        fewest, most = self.seeds
        seeds = f"{fewest}" if fewest == most else f"{fewest} to {most}"
        noun = "run" if most == 1 else "runs"
        games = f"{len(self.tasks)} game{'s' if len(self.tasks) > 1 else ''}"
        protocol = f"protocol {self.suite.protocol}"
        return f"{self.suite.name}; {protocol}; {games}; {seeds} {noun} an arm and game"


def how_sure(scores: Scores) -> Section:
    """For every suite: aggregates, probability of improvement, profiles, sample efficiency."""
    remarks = _pooled(scores)
    items: list[Table | Figure] = []
    for number, suite in enumerate(suites(scores.comparison.tasks)):
        sample = _sample(scores, suite, remarks)
        if sample is None:
            continue
        end = "" if number == 0 else f"-{number + 1}"
        rng = np.random.default_rng(SEED)
        items += [*_aggregates(sample, scores, rng, end), *_improvement(sample, scores, rng, end)]
        if sample.suite.normalized:
            items.append(_profiles(sample, scores, rng, end))
        items.append(_efficiency(sample, scores, rng, end))
    return Section("how-sure", "How sure are we?", remarks, items)


def _pooled(scores: Scores) -> list[str]:
    """Whoever pools settings draws runs, not seeds."""
    comparison = scores.comparison
    left = [axis for axis in comparison.varied if axis not in comparison.axes]
    if not left:
        return []
    together = "intervals are over runs, settings and seeds together"
    return [f"Arms pool runs that differ in {', '.join(left)}: {together}."]


def _sample(scores: Scores, suite: Suite, remarks: list[str]) -> Sample | None:
    arms = scores.comparison.arms
    begun = [arm for arm in arms if any(len(scores.last(task, arm)) for task in suite.tasks)]
    if not begun:
        remarks.append(f"{suite.name}: no score yet.")
        return None
    absent = [str(arm) for arm in arms if arm not in begun]
    if absent:
        remarks.append(f"{suite.name}: without {', '.join(absent)}, which has no score yet.")
    whole = [t for t in suite.tasks if all(len(scores.last(t, arm)) for arm in begun)]
    left = [str(task) for task in suite.tasks if task not in whole]
    if left:
        reason = "not every arm has a score there"
        remarks.append(f"{suite.name}: aggregates are without {', '.join(left)}: {reason}.")
    if not whole:
        return None
    games = {
        arm: [suite.normalize(task, scores.last(task, arm)) for task in whole] for arm in begun
    }
    sample = Sample(suite, whole, begun, games)
    fewest, most = sample.seeds
    if fewest < most:
        remarks.append(
            f"{suite.name}: {fewest} to {most} runs an arm and game; the IQM counts every run "
            "once, so games with more of them weigh more in it, and not alike for all arms."
        )
    if fewest == 1:
        remarks.append(
            f"{suite.name}: where an arm has one seed in a game, nothing is known of its spread, "
            "so there is no interval."
        )
    elif fewest < FEW_SEEDS:
        remarks.append(
            f"{suite.name}: with {fewest} seeds a bootstrap interval is narrower than the truth; "
            f"read it as a lower bound of the uncertainty and run {FEW_SEEDS} or more."
        )
    return sample


def _statistics(sample: Sample) -> dict[str, statistics.Statistic]:
    told: dict[str, statistics.Statistic] = {
        "IQM": statistics.iqm,
        "median": statistics.median,
        "mean": statistics.mean,
    }
    if sample.suite.normalized:
        told["optimality gap"] = statistics.optimality_gap
    return told


def _aggregates(
    sample: Sample, scores: Scores, rng: np.random.Generator, end: str
) -> list[Table | Figure]:
    told = {
        arm: {
            name: statistics.interval(statistic, sample.games[arm], rng)
            for name, statistic in _statistics(sample).items()
        }
        for arm in sample.arms
    }
    shown = [
        {"arm": str(arm), **{name: in_words(value) for name, value in values.items()}}
        for arm, values in told.items()
    ]
    data = [{"arm": str(arm), **_flat(values)} for arm, values in told.items()]
    caption = (
        f"{BOOTSTRAP}. {sample.about}. IQM: mean of the middle half of all scores; optimality gap: "
        "how far scores stay below 1, lower is better."
    )
    table = Table(
        f"aggregates{end}",
        f"Aggregates, {sample.suite.name}",
        caption,
        pd.DataFrame(shown),
        pd.DataFrame(data),
    )
    return [table, _interval_figure(sample, scores, told, caption, end)]


def in_words(value: Interval, digits: int = 3) -> str:
    """``0.41 [0.33, 0.52]``; without an interval the estimate alone."""
    if value.low is None or value.high is None:
        return f"{value.estimate:.{digits}g} (one seed)"
    return f"{value.estimate:.{digits}g} [{value.low:.{digits}g}, {value.high:.{digits}g}]"


def _flat(values: dict[str, Interval]) -> dict[str, float | None]:
    return {
        f"{name.replace(' ', '_')}_{end}": getattr(value, end)
        for name, value in values.items()
        for end in ("estimate", "low", "high")
    }


def _interval_figure(
    sample: Sample,
    scores: Scores,
    told: dict[Arm, dict[str, Interval]],
    caption: str,
    end: str,
) -> Figure:
    names = list(_statistics(sample))
    canvas, axes = panels(names, sharey=True, height=height_of(len(told)))
    for panel, name in zip(axes, names, strict=True):
        _intervals(panel, {arm: values[name] for arm, values in told.items()}, scores)
        panel.set_xlabel(sample.suite.name)
    return Figure(f"aggregates{end}", f"Aggregates, {sample.suite.name}", caption, canvas)


def height_of(arms: int) -> float:
    """Inches of a panel with a row for each arm."""
    return max(1.6, 0.22 * arms + 0.9)


def _intervals(panel: Axes, values: dict[Arm, Interval], scores: Scores) -> None:
    """A row an arm, the first at the top."""
    arm_looks = looks(scores.comparison)
    for place, (arm, value) in enumerate(values.items()):
        look = arm_looks[arm]
        if value.low is not None and value.high is not None:
            panel.hlines(place, value.low, value.high, color=look.color, linewidth=6, alpha=0.35)
        panel.plot(value.estimate, place, look.marker, color=look.color)
    panel.set_yticks(range(len(values)), [str(arm) for arm in values])
    panel.set_ylim(len(values) - 0.5, -0.5)
    panel.xaxis.set_major_locator(MaxNLocator(4))


def _improvement(
    sample: Sample, scores: Scores, rng: np.random.Generator, end: str
) -> list[Table | Figure]:
    baseline = scores.comparison.baseline
    others = [arm for arm in sample.arms if arm != baseline]
    if baseline not in sample.arms or not others:
        return []
    theirs = sample.games[baseline]
    told = {arm: statistics.improvement(sample.games[arm], theirs, rng) for arm in others}
    heading = f"P(better than {baseline})"
    shown = [{"arm": str(arm), heading: in_words(value)} for arm, value in told.items()]
    data = [{"arm": str(arm), **_flat({"probability": value})} for arm, value in told.items()]
    caption = (
        f"Probability that a run of the arm scores above a run of {baseline} in a game drawn at "
        f"random, ties count half; {BOOTSTRAP}. {sample.about}. An interval that holds 0.5 tells "
        "no difference."
    )
    canvas, (panel,) = panels([heading], height=height_of(len(told)))
    _intervals(panel, told, scores)
    panel.axvline(0.5, color="0.5", linestyle=":")
    panel.set_xlim(-0.02, 1.02)
    panel.set_xlabel("probability")
    title = f"Probability of improvement over {baseline}"
    return [
        Table(f"improvement{end}", title, caption, pd.DataFrame(shown), pd.DataFrame(data)),
        Figure(f"improvement{end}", title, caption, canvas),
    ]


def _profiles(sample: Sample, scores: Scores, rng: np.random.Generator, end: str) -> Figure:
    every = np.concatenate([game for games in sample.games.values() for game in games])
    thresholds = np.linspace(min(every.min(), 0.0), max(every.max(), 1e-9), PROFILE_POINTS)
    canvas, (panel,) = panels([f"{sample.suite.name}"])

    def profile(games: Games) -> Array:
        return statistics.performance_profile(games, thresholds)

    arm_looks = looks(scores.comparison)
    for arm in sample.arms:
        look = arm_looks[arm]
        panel.plot(thresholds, profile(sample.games[arm]), look.dash, color=look.color)
        _band(panel, thresholds, profile, sample.games[arm], rng, look.color)
    panel.set_xlabel("score, normalized")
    panel.set_ylabel("share of runs above it")
    legend(canvas, {arm: arm_looks[arm] for arm in sample.arms})
    better = "A line that is higher everywhere is better."
    caption = f"Bands: {BOOTSTRAP}, pointwise. {sample.about}. {better}"
    return Figure(f"profiles{end}", "Performance profiles", caption, canvas)


def _band(
    panel: Axes,
    x: Array,
    statistic: Callable[[Games], Array],
    games: Sequence[Array],
    rng: np.random.Generator,
    color: str,
    repetitions: int = statistics.REPETITIONS,
) -> None:
    if min(map(len, games)) < 2:
        return
    low, high = statistics.band(statistic, games, rng, repetitions=repetitions)
    panel.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)


def _efficiency(sample: Sample, scores: Scores, rng: np.random.Generator, end: str) -> Figure:
    """IQM against the share of the steps compared, every run read off its own curve."""
    share = np.linspace(_begin(sample, scores), 1, CURVE_POINTS)
    canvas, (panel,) = panels([sample.suite.name])
    lengths = {scores.steps[task] for task in sample.tasks}
    x = share * max(lengths) if len(lengths) == 1 else share

    def iqm(curves: Games) -> Array:
        return statistics.iqm([np.moveaxis(curve, -2, -1) for curve in curves])

    arm_looks = looks(scores.comparison)
    for arm in sample.arms:
        look = arm_looks[arm]
        games = [
            np.stack(
                [
                    sample.suite.normalize(task, _curve(score.run, share * scores.steps[task]))
                    for score in scores.of(task, arm)
                ]
            )
            for task in sample.tasks
        ]
        panel.plot(x, iqm(games), look.dash, color=look.color)
        _band(panel, x, iqm, games, rng, look.color, CURVE_REPETITIONS)
    panel.set_xlabel("agent steps" if len(lengths) == 1 else "share of the agent steps compared")
    if len(lengths) == 1:
        panel.xaxis.set_major_formatter(EngFormatter(sep=""))
    panel.set_ylabel("IQM of evaluations")
    legend(canvas, {arm: arm_looks[arm] for arm in sample.arms})
    caption = (
        "IQM of single evaluations, interpolated between them. Bands: as above with "
        f"{CURVE_REPETITIONS} draws, pointwise. {sample.about}."
    )
    return Figure(f"sample-efficiency{end}", "Sample efficiency", caption, canvas)


def _begin(sample: Sample, scores: Scores) -> float:
    """Where every run has been evaluated, as a share of the steps compared."""
    return max(
        int(score.run.evaluations[0]["step"]) / scores.steps[task]
        for task in sample.tasks
        for arm in sample.arms
        for score in scores.of(task, arm)
    )


def _curve(run: Run, steps: Array) -> Array:
    """Evaluations at these steps, interpolated."""
    at, values = run.records.series(SCORE)
    return np.interp(steps, at, values)
