"""Statistics over games and seeds against closed forms and cases worked out by hand."""

import json
from pathlib import Path

import numpy as np
import pytest

from sdqn_lab.analysis import statistics
from sdqn_lab.analysis.statistics import (
    Interval,
    improvement,
    interval,
    iqm,
    mean,
    median,
    optimality_gap,
    performance_profile,
    probability_of_improvement,
)
from sdqn_lab.checks.refused import Refused

ONE = np.array([0.0, 1.0, 2.0, 3.0])
TWO = np.array([10.0, 10.0, 10.0, 10.0])
THREE = np.array([-4.0, 0.0])


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_the_mean_weighs_games_equally_however_many_seeds_they_have():
    assert mean([ONE, THREE]) == pytest.approx((1.5 - 2.0) / 2)


def test_the_median_is_that_of_the_games_means():
    assert median([ONE, TWO, THREE]) == 1.5


def test_the_interquartile_mean_leaves_out_a_quarter_of_all_runs_at_each_end():
    # sorted: 0 1 | 2 3 10 10 | 10 10
    assert iqm([ONE, TWO]) == pytest.approx((2 + 3 + 10 + 10) / 4)
    assert iqm([np.array([5.0])]) == 5.0


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 15, 16])
def test_the_interquartile_mean_is_that_of_the_sorted_scores(count):
    scores = np.random.default_rng(count).normal(size=(3, count))
    cut = count // 4  # as SciPy's trim_mean counts
    expected = np.sort(scores, axis=-1)[:, cut : count - cut].mean(-1)
    np.testing.assert_allclose(iqm([scores]), expected, rtol=1e-12)


def test_the_optimality_gap_counts_what_is_missing_and_not_what_is_above():
    # (1 + 0 + 0 + 0) / 4 and (5 + 1) / 2
    assert optimality_gap([ONE, THREE]) == pytest.approx((0.25 + 3.0) / 2)
    assert optimality_gap([TWO]) == 0.0
    assert optimality_gap([TWO], target=12.0) == 2.0


def test_the_probability_of_improvement_counts_pairs_and_halves_ties():
    # of 4 x 2 pairs: 0 beats -4 and ties 0, 1 2 3 beat both
    assert probability_of_improvement([ONE], [THREE]) == pytest.approx(7.5 / 8)
    assert probability_of_improvement([THREE], [ONE]) == pytest.approx(0.5 / 8)
    assert probability_of_improvement([ONE, TWO], [ONE, TWO]) == 0.5
    assert probability_of_improvement([ONE, TWO], [THREE, TWO]) == pytest.approx(
        (7.5 / 8 + 0.5) / 2
    )


def test_the_profile_is_the_share_of_runs_strictly_above_each_threshold():
    thresholds = np.array([-5.0, 0.0, 2.0, 10.0])
    np.testing.assert_allclose(
        performance_profile([ONE, THREE], thresholds), [1.0, (0.75 + 0.0) / 2, 0.25 / 2, 0.0]
    )


@pytest.mark.parametrize("statistic", [mean, median, iqm, optimality_gap])
def test_replicates_are_worked_off_together_and_give_what_each_gives_alone(statistic):
    games = [rng().normal(size=(5, 4)), rng().normal(size=(5, 7))]
    alone = [statistic([game[i] for game in games]) for i in range(5)]
    np.testing.assert_allclose(statistic(games), alone)


def test_one_seed_gives_no_interval():
    assert interval(mean, [np.array([1.0]), np.array([2.0])], rng()) == Interval(1.5, None, None)


def test_a_single_game_with_one_seed_gives_no_interval_for_its_spread_would_count_as_none():
    games = [np.array([1.0]), np.array([1.0, 3.0])]
    assert interval(mean, games, rng()) == Interval(1.5, None, None)


def test_equal_seeds_give_an_interval_of_no_width():
    assert interval(iqm, [TWO, TWO], rng()) == Interval(10.0, 10.0, 10.0)


def test_seeds_are_drawn_within_their_game():
    """Across games the means of replicates would vary; within them they cannot."""
    games = [np.full(5, float(number)) for number in range(10)]
    assert interval(mean, games, rng()) == Interval(4.5, 4.5, 4.5)


def test_the_interval_of_a_mean_has_the_width_that_theory_says():
    scores = rng().normal(size=400)
    found = interval(mean, [scores], rng(), repetitions=20_000)
    deviation = scores.std() / 20  # of the mean of 400
    assert found.low == pytest.approx(scores.mean() - 1.96 * deviation, abs=0.08 * deviation)
    assert found.high == pytest.approx(scores.mean() + 1.96 * deviation, abs=0.08 * deviation)


def test_few_seeds_are_resampled_in_all_ways_there_are():
    # Of three, one of which is 1: all 1 in 1 of 27 resamples, 2 or more in 7, none in 8.
    scores = [np.array([0.0, 0.0, 1.0])]
    assert interval(mean, scores, rng(), level=0.95) == Interval(pytest.approx(1 / 3), 0.0, 1.0)
    found = interval(mean, scores, rng(), level=0.92)  # 1 / 27 < 0.04 < 7 / 27
    assert found == Interval(pytest.approx(1 / 3), 0.0, pytest.approx(2 / 3))
    # Two games of two: the mean over both is 0, or 1, in 1 of 16.
    games = [np.array([0.0, 1.0])] * 2
    assert interval(mean, games, rng(), level=0.88) == Interval(0.5, 0.0, 1.0)
    assert interval(mean, games, rng(), level=0.87) == Interval(0.5, 0.25, 0.75)


def test_a_level_between_two_resamples_takes_both_ends_alike():
    # Of 0, 1/2, 1/2 and 1 a quarter lies at each end: between it and the next.
    assert interval(mean, [np.array([0.0, 1.0])], rng(), level=0.5) == Interval(0.5, 0.25, 0.75)


def test_games_of_other_numbers_of_seeds_and_whole_curves_are_resampled_alike():
    # 4 x 27 resamples; the mean over both is 0 in 1/4 x 8/27 of them and 1 in 1/4 x 1/27.
    two, three = np.array([0.0, 1.0]), np.array([0.0, 0.0, 1.0])
    found = interval(mean, [two, three], rng(), level=1 - 2 * 0.009)
    assert found == Interval(pytest.approx((1 / 2 + 1 / 3) / 2), 0.0, 1.0)
    found = interval(mean, [two, three], rng(), level=1 - 2 * 0.0095)
    assert found.high == pytest.approx(5 / 6)
    curves = [np.stack([three, -three], axis=1)]
    low, high = statistics.band(lambda games: games[0].mean(1), curves, rng())
    np.testing.assert_allclose([low, high], [[0.0, -1.0], [1.0, 0.0]])


@pytest.mark.parametrize(("seeds", "drawn"), [((4, 2, 2), False), ((5, 2), True)])
def test_where_there_are_more_than_4096_resamples_they_are_drawn(seeds, drawn):
    # 256 x 4 x 4, and 3,125 x 4
    games = [rng().normal(size=count) for count in seeds]
    found = {interval(mean, games, np.random.default_rng(seed)) for seed in range(3)}
    assert (len(found) > 1) == drawn


def test_of_five_seeds_of_a_game_mean_and_median_have_one_interval_whatever_the_generator():
    five = [np.array([3.0, 1.0, 4.0, 1.5, 9.0])]
    found = {
        interval(what, five, np.random.default_rng(n)) for what in (mean, median) for n in (1, 2)
    }
    assert len(found) == 1


def test_an_interval_covers_the_truth_as_often_as_its_level_says():
    covered = 0
    for number in range(300):
        drawn = np.random.default_rng(number)
        games = [drawn.normal(size=20) for _ in range(4)]
        found = interval(mean, games, drawn, repetitions=400, level=0.9)
        assert found.low is not None and found.high is not None
        covered += found.low <= 0 <= found.high
    assert 0.82 < covered / 300 < 0.96


def test_the_same_generator_gives_the_same_interval_and_leaves_the_global_one_alone():
    np.random.seed(0)
    before = np.random.get_state()[1].tolist()
    assert interval(iqm, [ONE, THREE], rng()) == interval(iqm, [ONE, THREE], rng())
    assert np.random.get_state()[1].tolist() == before


def test_an_arm_that_always_wins_improves_surely():
    assert improvement([ONE + 100, TWO], [ONE, TWO - 1], rng()) == Interval(1.0, 1.0, 1.0)


def test_arms_with_other_games_are_not_compared():
    with pytest.raises(Refused) as caught:
        improvement([ONE, TWO], [ONE], rng())
    assert (caught.value.key, caught.value.value) == ("theirs", "1 games")


@pytest.mark.parametrize(("games", "seeds"), [([], "[]"), ([ONE, np.array([])], "[4, 0]")])
def test_what_has_no_scores_is_refused(games, seeds):
    with pytest.raises(Refused) as caught:
        interval(mean, games, rng())
    assert (caught.value.key, caught.value.value) == ("games", seeds)


def test_whole_curves_are_drawn_together():
    curves = np.stack([np.arange(3.0), np.arange(3.0) + 10])
    drawn = statistics.resampled(curves, rng(), 50)
    assert drawn.shape == (50, 2, 3)
    np.testing.assert_array_equal(drawn[..., 1] - drawn[..., 0], 1)


GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "rliable.json").read_text())
STATISTICS = {
    "mean": mean,
    "median": median,
    "iqm": iqm,
    "optimality_gap": optimality_gap,
}


def golden(arm: str) -> list[np.ndarray]:
    return [np.array(game) for game in GOLDEN[arm]]


@pytest.mark.parametrize("arm", ["a", "b"])
@pytest.mark.parametrize("name", STATISTICS)
def test_estimates_and_intervals_are_rliables(name, arm):
    at = GOLDEN["names"].index(name)
    low, high = (end[at] for end in GOLDEN["intervals"][arm])
    found = interval(STATISTICS[name], golden(arm), rng(), repetitions=50_000)
    assert found.estimate == pytest.approx(GOLDEN["estimates"][arm][at], abs=1e-12)
    # both ends are quantiles of as many draws, of other random numbers
    slack = 0.015 * (high - low)
    assert found.low == pytest.approx(low, abs=slack)
    assert found.high == pytest.approx(high, abs=slack)


def test_the_probability_of_improvement_and_its_interval_are_rliables():
    found = improvement(golden("a"), golden("b"), rng(), repetitions=20_000)
    low, high = GOLDEN["improvement_interval"]
    assert found.estimate == pytest.approx(GOLDEN["improvement"], abs=1e-12)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.02 * (high - low))


def test_the_profile_is_rliables():
    profile = performance_profile(golden("a"), np.array(GOLDEN["thresholds"]))
    np.testing.assert_allclose(profile, GOLDEN["profile"], atol=1e-12)
