"""Aggregates over games and seeds, with intervals that say how sure they are.

Scores of an arm are one array per game; its last axis counts the seeds, whose number may differ.
Axes before it are replicates of a bootstrap, computed together. Aggregates expect normalized
scores (0: random player, 1: reference), so that games can be averaged.

Source: Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice".
"""

import math
from collections.abc import Callable, Sequence
from functools import cache
from itertools import product
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sdqn_lab.checks.refused import Refused

Array = npt.NDArray[np.float64]
Games = Sequence[Array]
"""(..., seeds) for each game."""
Statistic = Callable[[Games], Array]
"""Games to one number per replicate."""
REPETITIONS = 2_000
ENUMERATED = 4_096
"""All resamples are taken where there are no more: of five seeds of a game there are 3,125."""
LEVEL = 0.95


class Interval(NamedTuple):
    """An estimate with its confidence interval.

    Attributes:
        estimate: from the scores themselves.
        low: lower end; None where a game has one seed, for then nothing is known of its spread.
        high: upper end, likewise.
    """

    estimate: float
    low: float | None
    high: float | None


def mean(games: Games) -> Array:
    """Mean over games of the mean over seeds."""
    return np.asarray(_means(games).mean(-1))


def median(games: Games) -> Array:
    """Median over games of the mean over seeds."""
    return np.asarray(np.median(_means(games), axis=-1))


def iqm(games: Games) -> Array:
    """Interquartile mean: the mean of the middle half of all scores, games and seeds together."""
    scores = np.concatenate(games, axis=-1)
    count = scores.shape[-1]
    # As SciPy's trim_mean does: the quarter is rounded down at each end.
    cut = count // 4
    ordered = np.partition(scores, (cut, count - cut - 1), axis=-1)
    return np.asarray(ordered[..., cut : count - cut].mean(-1))


def optimality_gap(games: Games, target: float = 1.0) -> Array:
    """Mean over games and seeds of how far scores stay below the target; what is above counts 0."""
    return np.asarray(_means([np.maximum(target - game, 0.0) for game in games]).mean(-1))


def probability_of_improvement(ours: Games, theirs: Games) -> Array:
    """Probability that a run of ours beats one of theirs on a game drawn at random.

        mean over games of P(X > Y) + P(X = Y) / 2

    Args:
        ours: one array per game.
        theirs: arrays of the same games, in the same order.
    """
    won = [
        # 1 for a win, 0 for a loss, 1/2 for a tie.
        (np.sign(x[..., :, None] - y[..., None, :]) / 2 + 0.5).mean((-1, -2))
        for x, y in zip(ours, theirs, strict=True)
    ]
    return np.asarray(np.mean(won, axis=0))


def performance_profile(games: Games, thresholds: Array) -> Array:
    """Share of runs with a score above each threshold, every game counting the same.

    Returns:
        (..., thresholds), falling.
    """
    above = [(game[..., None] > thresholds).mean(-2) for game in games]
    return np.asarray(np.mean(above, axis=0))


def interval(
    statistic: Statistic,
    games: Games,
    rng: np.random.Generator,
    *,
    repetitions: int = REPETITIONS,
    level: float = LEVEL,
) -> Interval:
    """Percentile interval of a stratified bootstrap: seeds are drawn anew within each game.

    Where there are at most `ENUMERATED` resamples all are taken, and the interval depends on no
    random number. It is as narrow for few seeds as one that was drawn.

    Args:
        statistic: of one arm.
        games: (seeds,) for each game.
        rng: source of the draws; not asked where all resamples are taken.
        repetitions: how many are drawn otherwise.
        level: coverage, in (0, 1).

    Raises:
        Refused: there is no game, or one without a seed.
    """
    _check(games)
    estimate = float(statistic(games))
    # One seed drawn again is the same seed: the interval would be a point, and look certain.
    if min(map(len, games)) < 2:
        return Interval(estimate, None, None)
    low, high = band(statistic, games, rng, repetitions=repetitions, level=level)
    return Interval(estimate, float(low), float(high))


def band(
    statistic: Statistic,
    games: Games,
    rng: np.random.Generator,
    *,
    repetitions: int = REPETITIONS,
    level: float = LEVEL,
) -> tuple[Array, Array]:
    """Lower and upper ends for a statistic that may answer with several numbers; see `interval`."""
    _check(games)
    outside = (1 - level) / 2
    ends = [outside, 1 - outside]
    # Games are not drawn: the question is about these, and not about other benchmarks.
    if math.prod(len(game) ** len(game) for game in games) > ENUMERATED:
        drawn = statistic([resampled(game, rng, repetitions) for game in games])
        low, high = np.quantile(drawn, ends, axis=0)
        return low, high
    each = [_every(len(game)) for game in games]
    together = np.indices([len(rows) for rows in each]).reshape(len(each), -1)
    every = [game[rows[at]] for game, rows, at in zip(games, each, together, strict=True)]
    # A whole distribution and no sample of one has steps; on one both ends are treated alike.
    low, high = np.quantile(statistic(every), ends, axis=0, method="averaged_inverted_cdf")
    return low, high


def draws(repetitions: int = REPETITIONS) -> str:
    """How many resamples an interval rests on, for a caption."""
    return f"{repetitions:,} draws, or all there are where these are at most {ENUMERATED:,}"


def improvement(
    ours: Games,
    theirs: Games,
    rng: np.random.Generator,
    *,
    repetitions: int = REPETITIONS,
    level: float = LEVEL,
) -> Interval:
    """`probability_of_improvement` with its interval; both arms are drawn anew.

    Raises:
        Refused: the arms have other games, or one has no seed in a game.
    """

    def statistic(both: Games) -> Array:
        return probability_of_improvement(both[: len(ours)], both[len(ours) :])

    if len(ours) != len(theirs):
        raise Refused("theirs", f"{len(theirs)} games", f"must be as many as ours: {len(ours)}")
    return interval(statistic, [*ours, *theirs], rng, repetitions=repetitions, level=level)


@cache
def _every(seeds: int) -> npt.NDArray[np.int64]:
    """All ways to draw n seeds of n, (n^n, n)."""
    rows = np.array(list(product(range(seeds), repeat=seeds)))
    rows.flags.writeable = False
    return rows


def resampled(game: Array, rng: np.random.Generator, repetitions: int) -> Array:
    """Seeds (n, ...) drawn with replacement, (repetitions, n, ...); curves stay together."""
    return game[rng.integers(len(game), size=(repetitions, len(game)))]


def _means(games: Games) -> Array:
    # Within each game first, or a game with more seeds would weigh more than the others.
    return np.stack([game.mean(-1) for game in games], axis=-1)


def _check(games: Games) -> None:
    if not games or not all(map(len, games)):
        seeds = ", ".join(str(len(game)) for game in games)
        raise Refused("games", f"[{seeds}]", "must be at least one, each with a seed")
