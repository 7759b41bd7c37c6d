"""How sure: aggregates over games and seeds with stratified bootstrap intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, MaxNLocator

from sdqn_lab.analysis import statistics
from sdqn_lab.analysis.comparison import Arm, Task
from sdqn_lab.analysis.figures import Figure, Look, legend, looks, panels
from sdqn_lab.analysis.records import SCORE
from sdqn_lab.analysis.scoring import Scores, Suite, suites
from sdqn_lab.analysis.sections.section import Section, Table
from sdqn_lab.analysis.statistics import Array, Games, Interval
from sdqn_lab.analysis.text import counted, with_interval

SEED = 0
"""Of the bootstrap's own generator: a report of the same runs holds the same numbers."""
FEW_SEEDS = 5
CURVE_POINTS = 30
CURVE_REPETITIONS = 500
PROFILE_POINTS = 100
BOOTSTRAP = (
    "95% percentile intervals of a stratified bootstrap over the runs within each game "
    f"({statistics.draws()})"
)
STATISTICS: Mapping[str, statistics.Statistic] = {
    "IQM": statistics.iqm,
    "median": statistics.median,
    "mean": statistics.mean,
    "optimality gap": statistics.optimality_gap,
}
"""The last one needs a scale on which 1 means something."""


@dataclass(frozen=True)
class Sample:
    """The scores of a suite that can be aggregated: every arm has played every task of it."""

    scores: Scores
    suite: Suite
    tasks: list[Task]
    games: dict[Arm, list[Array]]
    """Arm -> (seeds,) for each task."""
    looks: dict[Arm, Look]
    rng: np.random.Generator

    @property
    def seeds(self) -> tuple[int, int]:
        """The fewest and the most seeds of an arm in a game."""
        counts = [len(game) for games in self.games.values() for game in games]
        return min(counts), max(counts)

    @property
    def about(self) -> str:
        """Scale, games and seeds, for a caption."""
        fewest, most = self.seeds
        seeds = f"{fewest} to {most} runs" if fewest < most else counted(most, "run")
        games = counted(len(self.tasks), "game")
        protocol = self.suite.tasks[0].protocol
        return f"{self.suite.name}; protocol {protocol}; {games}; {seeds} per arm and game"

    def certain(self, arm: Arm) -> bool:
        """Whether the arm has two seeds in every game: with one nothing is known of its spread."""
        return min(map(len, self.games[arm])) > 1


def uncertainty(scores: Scores) -> Section:
    """For every suite: aggregates, probability of improvement, profiles, sample efficiency."""
    comparison = scores.comparison
    remarks: list[str] = []
    items: list[Table | Figure] = []
    if left := [axis for axis in comparison.varied if axis not in comparison.axes]:
        together = "intervals are over runs, settings and seeds together"
        remarks.append(f"Arms pool runs that differ in {', '.join(left)}: {together}.")
    for suite in suites(comparison.tasks):
        sample = _sample(scores, suite, remarks)
        if sample is None:
            continue
        items += _aggregates(sample)
        items += _improvement(sample, remarks)
        if suite.normalized:
            items.append(_profiles(sample))
        items.append(_efficiency(sample))
    return Section("how-sure", "How sure are we?", remarks, items)


def _sample(scores: Scores, suite: Suite, remarks: list[str]) -> Sample | None:
    """The scores of those games in which every arm that has begun has one."""
    arms = scores.comparison.arms
    begun = [arm for arm in arms if any(len(scores.last(task, arm)) for task in suite.tasks)]
    if not begun:
        remarks.append(f"{suite.name}: no score yet.")
        return None
    if absent := [str(arm) for arm in arms if arm not in begun]:
        remarks.append(f"{suite.name}: no score yet of {', '.join(absent)}.")
    # An arm that lacks a hard game would look better than one that has played it.
    whole = [t for t in suite.tasks if all(len(scores.last(t, arm)) for arm in begun)]
    if left := [str(task) for task in suite.tasks if task not in whole]:
        of = f"{len(whole)} of {counted(len(suite.tasks), 'game')}"
        reason = f"not every arm has a score in {', '.join(left)}"
        remarks.append(f"{suite.name}: aggregates are over {of}, because {reason}.")
    if not whole:
        return None
    games = {a: [suite.normalize(task, scores.last(task, a)) for task in whole] for a in begun}
    arm_looks = {arm: look for arm, look in looks(scores.comparison).items() if arm in begun}
    # One generator serves a suite in a fixed order: the same runs give the same numbers.
    sample = Sample(scores, suite, whole, games, arm_looks, np.random.default_rng(SEED))
    fewest, most = sample.seeds
    if fewest < most:
        remarks.append(
            f"{suite.name}: {fewest} to {most} runs per arm and game; the IQM counts every run "
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


def _aggregates(sample: Sample) -> list[Table | Figure]:
    suite = sample.suite
    names = list(STATISTICS)[: None if suite.normalized else -1]
    found = {
        arm: {name: statistics.interval(STATISTICS[name], games, sample.rng) for name in names}
        for arm, games in sample.games.items()
    }
    caption = (
        f"{BOOTSTRAP}. {sample.about}. IQM: mean of the middle half of all scores; optimality gap: "
        "how far scores stay below 1, lower is better."
    )
    canvas, axes = panels(names, sharey=True, height=_height(len(found)))
    for panel, name in zip(axes, names, strict=True):
        _draw_intervals(panel, {arm: values[name] for arm, values in found.items()}, sample)
        panel.set_xlabel(suite.name)
    name, title = f"aggregates{suite.suffix}", f"Aggregates, {suite.name}"
    return [_table(name, title, caption, found), Figure(name, title, caption, canvas)]


def _improvement(sample: Sample, remarks: list[str]) -> list[Table | Figure]:
    baseline, suite = sample.scores.comparison.baseline, sample.suite
    others = [arm for arm in sample.games if arm != baseline]
    if baseline not in sample.games or not others:
        return []
    certain = [arm for arm in others if sample.certain(arm) and sample.certain(baseline)]
    if single := [str(arm) for arm in others if arm not in certain]:
        reason = f"no probability of improvement over {baseline} from one seed"
        remarks.append(f"{suite.name}: {reason} ({', '.join(single)}).")
    if not certain:
        return []
    theirs = sample.games[baseline]
    found = {arm: statistics.improvement(sample.games[arm], theirs, sample.rng) for arm in certain}
    heading = f"P(better than {baseline})"
    caption = (
        f"Probability that a run of the arm scores above a run of {baseline} in a game drawn at "
        f"random, ties count half; {BOOTSTRAP}. {sample.about}. An interval that holds 0.5 shows "
        "no difference."
    )
    canvas, (panel,) = panels([heading], height=_height(len(found)))
    _draw_intervals(panel, found, sample)
    panel.axvline(0.5, color="0.5", linestyle=":")
    panel.set_xlim(-0.02, 1.02)
    panel.set_xlabel("probability")
    name, title = f"improvement{suite.suffix}", f"Probability of improvement over {baseline}"
    table = _table(
        name, title, caption, {arm: {"probability": value} for arm, value in found.items()}
    )
    table.shown.columns = pd.Index(["arm", heading])
    return [table, Figure(name, title, caption, canvas)]


def _table(
    name: str, title: str, caption: str, found: Mapping[Arm, Mapping[str, Interval]]
) -> Table:
    """A row for each arm, an interval in each column."""
    shown, data = [], []
    for arm, values in found.items():
        shown.append({"arm": str(arm), **{k: with_interval(v) for k, v in values.items()}})
        numbers = {
            f"{key.replace(' ', '_')}_{end}": number
            for key, value in values.items()
            for end, number in value._asdict().items()
        }
        data.append({"arm": str(arm), **numbers})
    return Table(name, title, caption, pd.DataFrame(shown), pd.DataFrame(data))


def _height(arms: int) -> float:
    """Inches of a panel with a row for each arm."""
    return max(1.6, 0.22 * arms + 0.9)


def _draw_intervals(panel: Axes, values: Mapping[Arm, Interval], sample: Sample) -> None:
    """A row for each arm, the first at the top."""
    for place, (arm, value) in enumerate(values.items()):
        look = sample.looks[arm]
        if value.low is not None and value.high is not None:
            panel.hlines(place, value.low, value.high, color=look.color, linewidth=6, alpha=0.35)
        panel.plot(value.estimate, place, look.marker, color=look.color)
    panel.set_yticks(range(len(values)), [str(arm) for arm in values])
    panel.set_ylim(len(values) - 0.5, -0.5)
    panel.xaxis.set_major_locator(MaxNLocator(4))


def _profiles(sample: Sample) -> Figure:
    every = np.concatenate([game for games in sample.games.values() for game in games])
    thresholds = np.linspace(min(every.min(), 0.0), max(every.max(), 1e-9), PROFILE_POINTS)
    canvas, (panel,) = panels([sample.suite.name])

    def profile(games: Games) -> Array:
        return statistics.performance_profile(games, thresholds)

    for arm, games in sample.games.items():
        _draw_curve(panel, thresholds, profile, games, arm, sample, statistics.REPETITIONS)
    panel.set_xlabel("score, normalized")
    panel.set_ylabel("share of runs above it")
    legend(canvas, sample.looks)
    better = "A line that is higher everywhere is better."
    caption = f"Bands: {BOOTSTRAP}, pointwise. {sample.about}. {better}"
    return Figure(f"profiles{sample.suite.suffix}", "Performance profiles", caption, canvas)


def _draw_curve(
    panel: Axes,
    x: Array,
    statistic: statistics.Statistic,
    games: Sequence[Array],
    arm: Arm,
    sample: Sample,
    repetitions: int,
) -> None:
    """A statistic of many numbers as a line, with its band where there is one."""
    look = sample.looks[arm]
    panel.plot(x, statistic(games), look.dash, color=look.color)
    if sample.certain(arm):
        low, high = statistics.band(statistic, games, sample.rng, repetitions=repetitions)
        panel.fill_between(x, low, high, color=look.color, alpha=0.15, linewidth=0)


def _efficiency(sample: Sample) -> Figure:
    """IQM against the share of the steps compared, every run read off its own curve."""
    scores, suite = sample.scores, sample.suite
    begin = max(  # where every run has been evaluated
        int(score.run.evaluations[0]["step"]) / scores.steps[task]
        for task in sample.tasks
        for arm in sample.games
        for score in scores.of(task, arm)
    )
    share = np.linspace(begin, 1, CURVE_POINTS)
    canvas, (panel,) = panels([suite.name])
    lengths = {scores.steps[task] for task in sample.tasks}
    # Tasks of several lengths have no common axis of steps.
    x = share * max(lengths) if len(lengths) == 1 else share

    def iqm(curves: Games) -> Array:
        return statistics.iqm([np.moveaxis(curve, -2, -1) for curve in curves])

    for arm in sample.games:
        games = []
        for task in sample.tasks:
            at = share * scores.steps[task]
            curves = [np.interp(at, *s.run.records.series(SCORE)) for s in scores.of(task, arm)]
            games.append(np.stack([suite.normalize(task, curve) for curve in curves]))
        _draw_curve(panel, x, iqm, games, arm, sample, CURVE_REPETITIONS)
    panel.set_xlabel("agent steps" if len(lengths) == 1 else "share of the agent steps compared")
    if len(lengths) == 1:
        panel.xaxis.set_major_formatter(EngFormatter(sep=""))
    panel.set_ylabel("IQM of evaluations")
    legend(canvas, sample.looks)
    caption = (
        "IQM of single evaluations, interpolated between them. Bands: as above "
        f"({statistics.draws(CURVE_REPETITIONS)}), pointwise. {sample.about}."
    )
    return Figure(f"sample-efficiency{suite.suffix}", "Sample efficiency", caption, canvas)
