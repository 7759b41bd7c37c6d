"""Returns: the originals' numbers, sums by hand, and a loop written from the definition."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sdqn_lab.agents.returns import gae, lambda_returns, n_step_return, summed_steps

GOLDEN = sorted((Path(__file__).parents[1] / "golden").glob("nstep_*.npz"))
GOLDEN_LAMBDA = sorted((Path(__file__).parents[1] / "golden").glob("qlambda_*.npz"))
GOLDEN_GAE = sorted((Path(__file__).parents[1] / "golden").glob("gae_*.npz"))


def column(*values, dtype=bool):
    return np.array(values, dtype)[:, None]


def one_window(rewards, terminal, stop, gamma):
    """n-step return of a single window given as lists."""
    result = n_step_return(
        column(*rewards, dtype=np.float64), column(*terminal), column(*stop), gamma
    )
    return result.returns[0], result.discounts[0], result.lengths[0]


def test_golden_files_are_there():
    assert len(GOLDEN) == 6


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_targets_equal_the_originals(path):
    """The original's buffer is one flat ring of 40 entries, ours is given as windows.

    `done` is our terminal. `end_flag` is `done` plus the newest, unfinished entry, at which the
    original stops the sum and bootstraps: our `stop`, as if the episode were truncated there.
    `indices_n` repeats an episode's last entry, ours would run on; both ignore what follows a stop.
    `target_q` is raw: the original masks it by `done`, our discount is 0 there.
    """
    golden = np.load(path)
    windows = golden["indices"] + np.arange(int(golden["n_step"]))[:, None]
    windows = np.minimum(windows, 39)
    result = n_step_return(
        golden["rew"][windows],
        golden["done"][windows],
        golden["end_flag"][windows],
        float(golden["gamma"]),
    )
    targets = result.returns + result.discounts * golden["target_q"][:, 0]
    np.testing.assert_allclose(targets, golden["returns"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_a_window_given_by_the_originals_repeating_indices_means_the_same(path):
    golden = np.load(path)
    arguments = [golden[name][golden["indices_n"]] for name in ("rew", "done", "end_flag")]
    result = n_step_return(*arguments, float(golden["gamma"]))
    targets = result.returns + result.discounts * golden["target_q"][:, 0]
    np.testing.assert_allclose(targets, golden["returns"], rtol=0, atol=1e-12)


NO = (False, False, False)


def test_three_open_steps_are_summed_and_bootstrapped():
    # 1 + 0.5 * 2 + 0.25 * 4 = 3; the value counts with 0.5 ** 3
    assert one_window((1, 2, 4), NO, NO, 0.5) == (3.0, 0.125, 3)


def test_termination_ends_the_sum_and_the_bootstrap():
    stop = (False, True, False)
    assert one_window((1, 2, 4), stop, stop, 0.5) == (2.0, 0.0, 2)


def test_truncation_ends_the_sum_and_keeps_the_bootstrap():
    assert one_window((1, 2, 4), NO, (False, True, False), 0.5) == (2.0, 0.25, 2)


def test_life_loss_is_terminal_although_rewards_follow():
    # The caller marks a lost life terminal; the 4 belongs to the next life.
    assert one_window((1, 2, 4), (True, False, False), NO, 0.5) == (1.0, 0.0, 1)


def test_of_two_stops_the_first_counts():
    # Truncated after step 0; the later termination belongs to another episode.
    result = one_window((1, 2, 4), (False, True, False), (True, True, False), 0.5)
    assert result == (1.0, 0.5, 1)


def test_termination_at_the_last_step_of_the_window_cuts():
    assert one_window((1, 2, 4), (False, False, True), NO, 0.5) == (3.0, 0.0, 3)


@pytest.mark.parametrize(("gamma", "discount", "total"), [(0.0, 0.0, 1.0), (1.0, 1.0, 7.0)])
def test_gamma_at_its_ends(gamma, discount, total):
    assert one_window((1, 2, 4), NO, NO, gamma) == (total, discount, 3)


def test_windows_of_a_batch_are_independent():
    rewards = np.array([[1.0, 1.0], [1.0, 1.0]])
    stop = np.array([[True, False], [False, False]])
    result = n_step_return(rewards, np.zeros((2, 2), bool), stop, 0.5)
    assert result.returns.tolist() == [1.0, 1.5]
    assert result.discounts.tolist() == [0.5, 0.25]
    assert result.lengths.tolist() == [1, 2]


def test_what_follows_a_stop_is_ignored_even_if_it_is_not_a_number():
    assert one_window((1, np.nan, np.inf), NO, (True, False, False), 0.5) == (1.0, 0.5, 1)


def test_summed_steps_of_one_step_windows_are_all_summed():
    assert summed_steps(np.array([[True, False]])).tolist() == [[True, True]]


@st.composite
def windows(draw):
    n = draw(st.integers(1, 8))
    flags = st.lists(st.booleans(), min_size=n, max_size=n)
    rewards = draw(st.lists(st.floats(-5, 5), min_size=n, max_size=n))
    return rewards, draw(flags), draw(flags), draw(st.floats(0, 1))


def by_definition(rewards, terminal, stop, gamma):
    total, discount = 0.0, 1.0
    for length, (reward, cut, end) in enumerate(zip(rewards, terminal, stop, strict=True), 1):
        total += discount * reward
        discount *= gamma
        if cut:
            return total, 0.0, length
        if end:
            break
    return total, discount, length


@given(windows())
def test_any_window_equals_the_loop_written_from_the_definition(window):
    expected = by_definition(*window)
    np.testing.assert_allclose(one_window(*window), expected, rtol=1e-12, atol=1e-12)


# Mixed by lambda


def values_of(golden):
    """Discounts, and the largest value after each step, of a case of the originals."""
    discounts = golden["gamma"] * (1.0 - golden["done_after_step"].astype(np.float64))
    following = np.concatenate([golden["q"][1:], golden["next_q"][None]]).max(axis=-1)
    return discounts, following


@pytest.mark.parametrize("path", GOLDEN_LAMBDA, ids=lambda path: path.stem)
@pytest.mark.parametrize("of", ["returns", "returns_rlax", "returns_purejaxql_atari"])
def test_lambda_returns_equal_the_originals(path, of):
    golden = np.load(path)
    ours = lambda_returns(golden["rewards"], *values_of(golden), float(golden["lam"]))
    np.testing.assert_allclose(ours, golden[of], rtol=0, atol=1e-6)


@pytest.mark.parametrize("path", GOLDEN_LAMBDA, ids=lambda path: path.stem)
def test_the_wrong_value_of_the_last_step_but_one_in_published_code_is_not_ours(path):
    """Several scripts of purejaxql take there the value after the last step, masked by its end."""
    golden = np.load(path)
    discounts, following = values_of(golden)
    wrong = following.copy()
    wrong[-2] = following[-1] * (1.0 - golden["done_after_step"][-1])
    lambda_ = float(golden["lam"])
    theirs = lambda_returns(golden["rewards"], discounts, wrong, lambda_)
    published = golden["returns_purejaxql_minatar"]
    np.testing.assert_allclose(theirs, published, rtol=0, atol=1e-6)
    ours = lambda_returns(golden["rewards"], discounts, following, lambda_)
    # At lambda = 1 no bootstrap but the last counts.
    assert (np.abs(ours - published).max() > 0.01) == (lambda_ < 1.0)


@pytest.mark.parametrize("of", [np.array, torch.tensor], ids=["numpy", "torch"])
def test_lambda_returns_by_hand(of):
    # 4 + 0.5 * 40 = 24; 2 + 0.5 * (0.5 * 20 + 0.5 * 24) = 13; 1 + 0.5 * (0.5 * 10 + 0.5 * 13)
    columns = [of([[a], [b], [c]]) for a, b, c in ((1.0, 2.0, 4.0), (0.5,) * 3, (10.0, 20.0, 40.0))]
    returns = lambda_returns(*columns, 0.5)
    assert isinstance(returns, type(columns[0]))
    assert returns.flatten().tolist() == [6.75, 13.0, 24.0]
    assert columns[0].flatten().tolist() == [1.0, 2.0, 4.0]


def test_a_discount_of_zero_cuts_the_chain():
    columns = [
        column(*values, dtype=np.float64) for values in ((1, 2, 4), (0.5, 0, 0.5), (9, 9, 8))
    ]
    assert lambda_returns(*columns, 1.0).flatten().tolist() == [2.0, 2.0, 8.0]


@pytest.mark.parametrize("lambda_", [0.0, 0.3, 1.0])
def test_lambda_returns_are_the_weighted_mean_of_all_n_step_returns(lambda_):
    rng, gamma, steps = np.random.default_rng(0), 0.9, 6
    rewards, values = rng.standard_normal((2, steps, 3))
    no = np.zeros((steps, 3), bool)
    expected = np.zeros(3)
    for n in range(1, steps + 1):
        summed = n_step_return(rewards[:n], no[:n], no[:n], gamma)
        weight = lambda_ ** (n - 1) * (1 - lambda_ if n < steps else 1)
        expected += weight * (summed.returns + summed.discounts * values[n - 1])
    ours = lambda_returns(rewards, np.full((steps, 3), gamma), values, lambda_)
    np.testing.assert_allclose(ours[0], expected, rtol=0, atol=1e-12)


# Generalized advantage estimation


@pytest.mark.parametrize("kind", ["numpy", "torch"])
@pytest.mark.parametrize("path", GOLDEN_GAE, ids=lambda path: path.stem)
def test_advantages_equal_the_originals(path, kind):
    """`done_after_step` is our discount of 0; the value after the last step is a row of its own."""
    golden = np.load(path)
    values = np.concatenate([golden["values"], golden["next_value"][None]])
    discounts = float(golden["gamma"]) * (1.0 - golden["done_after_step"])
    arrays = [golden["rewards"], discounts, values[:-1], values[1:]]
    if kind == "torch":
        arrays = [torch.from_numpy(np.asarray(array, np.float64)) for array in arrays]
    advantages = np.asarray(gae(*arrays, float(golden["lam"])))
    for name in ("", "_sb3"):
        np.testing.assert_allclose(advantages, golden[f"advantages{name}"], rtol=0, atol=2e-6)
        returns = advantages + golden["values"]
        np.testing.assert_allclose(returns, golden[f"returns{name}"], rtol=0, atol=2e-6)


def test_advantages_by_hand():
    # delta_1 = 2 + 0.5 * 8 - 4 = 2; delta_0 = 1 + 0.5 * 4 - 6 = -3; A_0 = -3 + 0.5 * 0.5 * 2
    arrays = np.array([[[1.0], [2.0]], [[0.5], [0.5]], [[6.0], [4.0]], [[4.0], [8.0]]])
    assert gae(*arrays, 0.5).tolist() == [[-2.5], [2.0]]
    # An end after the first step: 1 - 6, and nothing of what follows.
    arrays[1, 0] = 0.0
    assert gae(*arrays, 0.5).tolist() == [[-5.0], [2.0]]


@given(windows(), st.floats(0, 1))
def test_advantages_and_values_add_up_to_the_lambda_return(window, lambda_):
    rewards, terminal, _, gamma = window
    r = np.array(rewards, np.float64)[:, None]
    d = np.where(column(*terminal), 0.0, gamma)
    v = np.linspace(-2, 3, len(rewards) + 1)[:, None]
    expected = lambda_returns(r, d, v[1:], lambda_)
    np.testing.assert_allclose(gae(r, d, v[:-1], v[1:], lambda_) + v[:-1], expected, atol=1e-9)
