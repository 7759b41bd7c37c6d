"""Losses of the engine are those of `agents.losses`, and their gradients those of autograd."""

import math

import numpy as np
import pytest
import torch

from sdqn_lab.agents.losses import (
    huber,
    mse,
    of_actions,
    quantile_huber,
    quantile_targets,
    td_error,
)
from sdqn_lab.engines.losses import (
    bootstrap,
    quantile_bootstrap,
    quantile_gradient,
    value_gradient,
)

BATCH, ACTIONS = 7, 4
NAN = math.nan


def lesson(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values, actions and targets; errors lie on both sides of Huber's corner."""
    rng = np.random.default_rng(seed)
    q = 2 * rng.standard_normal((BATCH, ACTIONS))
    return q, rng.integers(ACTIONS, size=BATCH), 2 * rng.standard_normal(BATCH)


def by_engine(
    q: np.ndarray, actions: np.ndarray, targets: np.ndarray, is_huber: bool, scale: float = 1.0
) -> tuple[np.ndarray, float, float]:
    """Gradient, loss and mean value."""
    of_q, numbers = np.full_like(q, 9.0), np.full(2, 9.0)
    value_gradient(q, actions, targets, is_huber, scale, of_q, numbers)
    return of_q, *numbers.tolist()


@pytest.mark.parametrize("scale", [1.0, 0.5])
@pytest.mark.parametrize("is_huber", [False, True])
def test_loss_gradient_and_mean_value_are_those_of_autograd(is_huber: bool, scale: float) -> None:
    q, actions, targets = lesson()
    errors = np.abs(targets - q[np.arange(BATCH), actions])
    assert errors.min() < 1 < errors.max()
    values = torch.from_numpy(q).requires_grad_()
    taken = values.gather(1, torch.from_numpy(actions)[:, None])[:, 0]
    loss = scale * (huber if is_huber else mse)(torch.from_numpy(targets) - taken)
    loss.backward()  # type: ignore[no-untyped-call]
    assert values.grad is not None
    of_q, ours, mean = by_engine(q, actions, targets, is_huber, scale)
    np.testing.assert_allclose(of_q, values.grad, rtol=1e-14)
    assert ours == pytest.approx(loss.item(), rel=1e-14)
    assert mean == pytest.approx(taken.mean().item(), rel=1e-14)


@pytest.mark.parametrize("is_huber", [False, True])
def test_an_error_that_is_not_a_number_stays_one(is_huber: bool) -> None:
    q, actions, targets = lesson()
    targets[3] = NAN
    of_q, loss, _ = by_engine(q, actions, targets, is_huber)
    assert math.isnan(loss)
    assert np.argwhere(np.isnan(of_q)).tolist() == [[3, actions[3]]]
    q, actions, targets = lesson()
    q[2, actions[2]] = NAN
    of_q, loss, mean = by_engine(q, actions, targets, is_huber)
    assert math.isnan(loss) and math.isnan(mean)
    assert np.argwhere(np.isnan(of_q)).tolist() == [[2, actions[2]]]


def test_a_small_loss_by_hand() -> None:
    q = np.array([[1.0, 2.0], [0.5, 4.0]])
    actions, targets = np.array([1, 0]), np.array([2.5, 3.5])
    of_q, loss, mean = by_engine(q, actions, targets, True)
    # Errors 0.5 and 3: losses 0.125 and 2.5.
    assert (loss, mean) == (1.3125, 1.25)
    assert of_q.tolist() == [[0.0, -0.25], [-0.5, 0.0]]
    of_q, loss, _ = by_engine(q, actions, targets, False)
    assert loss == 4.625
    assert of_q.tolist() == [[0.0, -0.5], [-3.0, 0.0]]


def targets_of(
    returns: np.ndarray, discounts: np.ndarray, next_q: np.ndarray, selector_q: np.ndarray
) -> np.ndarray:
    out = np.full(len(returns), 9.0)
    bootstrap(returns, discounts, next_q, selector_q, out)
    return out


@pytest.mark.parametrize("double", [False, True])
def test_targets_are_those_of_the_td_error(double: bool) -> None:
    rng = np.random.default_rng(1)
    next_q, online = rng.standard_normal((2, BATCH, ACTIONS))
    returns, discounts = rng.standard_normal(BATCH), 0.9 * rng.integers(2, size=BATCH)
    zeros = torch.zeros(BATCH, ACTIONS, dtype=torch.float64)
    selector = torch.from_numpy(online) if double else None
    numbers = torch.from_numpy(returns), torch.from_numpy(discounts)
    actions = torch.zeros(BATCH, dtype=torch.int64)
    wanted = td_error(
        *(zeros, actions, *numbers),
        next_q_online=selector,
        next_q_target=torch.from_numpy(next_q),
    )
    ours = targets_of(returns, discounts, next_q, online if double else next_q)
    np.testing.assert_allclose(ours, wanted, rtol=1e-14)


@pytest.mark.parametrize(
    ("selector", "best"),
    [
        ([1.0, 3.0, 3.0, 2.0], 1),
        ([0.0, -0.0, 0.0, 0.0], 0),
        ([1.0, NAN, 3.0, NAN], 1),
        ([NAN, 5.0, 7.0, 6.0], 0),
        ([-math.inf, -math.inf, -math.inf, -math.inf], 0),
        ([1.0, 2.0, math.inf, 3.0], 2),
    ],
)
def test_the_first_of_equal_values_is_chosen_and_nan_counts_as_the_largest(
    selector: list[float], best: int
) -> None:
    assert int(torch.tensor(selector).argmax()) == best
    next_q = np.array([[10.0, 20.0, 30.0, 40.0]])
    ours = targets_of(np.array([1.0]), np.array([0.5]), next_q, np.array([selector]))
    assert ours.tolist() == [1.0 + 5.0 * (best + 1)]


def test_a_next_value_that_is_not_a_number_makes_the_target_one() -> None:
    returns, discounts = np.array([1.0, 2.0]), np.array([0.5, 0.0])
    next_q = np.array([[0.0, NAN, 1.0], [1.0, NAN, 2.0]])
    # Also behind a terminal step, as 0 times NaN is NaN in torch.
    assert np.isnan(targets_of(returns, discounts, next_q, next_q)).all()


def quantiles_by_engine(
    quantiles: np.ndarray, actions: np.ndarray, targets: np.ndarray, kappa: float
) -> tuple[np.ndarray, float, float]:
    """Gradient, loss and mean value."""
    of_quantiles, numbers = np.full_like(quantiles, 9.0), np.full(2, 9.0)
    quantile_gradient(quantiles, actions, targets, kappa, of_quantiles, numbers)
    return of_quantiles, *numbers.tolist()


@pytest.mark.parametrize(("kind", "tolerance"), [(np.float64, 1e-10), (np.float32, 2e-6)])
@pytest.mark.parametrize("kappa", [1.0, 0.5, 0.0])
@pytest.mark.parametrize("counts", [(5, 5), (9, 4), (1, 1), (50, 50)])
def test_quantile_loss_and_its_gradient_are_those_of_autograd(
    counts: tuple[int, int], kappa: float, kind: type[np.floating], tolerance: float
) -> None:
    rng, (own, others) = np.random.default_rng(2), counts
    quantiles = rng.standard_normal((BATCH, ACTIONS, own)).astype(kind)
    targets = (2 * rng.standard_normal((BATCH, others))).astype(kind)
    actions = rng.integers(ACTIONS, size=BATCH)
    # An error of exactly zero, where the sign decides.
    targets[0, 0] = quantiles[0, actions[0], 0]
    leaf = torch.from_numpy(quantiles).double().requires_grad_()
    current = of_actions(leaf, torch.from_numpy(actions))
    tau = ((torch.arange(own).double() + 0.5) / own).expand(BATCH, -1)
    loss = quantile_huber(current, torch.from_numpy(targets).double(), tau, kappa).mean()
    loss.backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    of_quantiles, ours, mean = quantiles_by_engine(quantiles, actions, targets, kappa)
    assert np.linalg.norm(of_quantiles - leaf.grad.numpy()) <= tolerance * leaf.grad.norm()
    assert ours == pytest.approx(loss.item(), rel=tolerance)
    assert mean == pytest.approx(current.mean().item(), rel=tolerance, abs=tolerance)


@pytest.mark.parametrize("kappa", [1.0, 0.0])
def test_a_quantile_or_target_that_is_not_a_number_reaches_the_gradient(kappa: float) -> None:
    quantiles, actions = np.zeros((2, 3, 4)), np.array([2, 0])
    targets = np.ones((2, 4))
    targets[1, 3] = NAN
    of_quantiles, loss, _ = quantiles_by_engine(quantiles, actions, targets, kappa)
    assert math.isnan(loss)
    assert np.argwhere(np.isnan(of_quantiles)).tolist() == [[1, 0, i] for i in range(4)]
    quantiles[0, 2, 1], targets[1, 3] = NAN, 1.0
    of_quantiles, loss, mean = quantiles_by_engine(quantiles, actions, targets, kappa)
    assert math.isnan(loss) and math.isnan(mean)
    assert np.argwhere(np.isnan(of_quantiles)).tolist() == [[0, 2, 1]]


def quantile_targets_of(
    returns: np.ndarray, discounts: np.ndarray, following: np.ndarray, selector: np.ndarray
) -> np.ndarray:
    out = np.full_like(following[:, 0], 9.0)
    quantile_bootstrap(returns, discounts, following, selector, out)
    return out


@pytest.mark.parametrize("double", [False, True])
def test_targets_of_quantiles_are_those_of_the_reference(double: bool) -> None:
    rng = np.random.default_rng(3)
    following, online = rng.standard_normal((2, BATCH, ACTIONS, 5))
    returns, discounts = rng.standard_normal(BATCH), 0.9 * rng.integers(2, size=BATCH)
    wanted = quantile_targets(
        torch.from_numpy(returns),
        torch.from_numpy(discounts),
        next_online=torch.from_numpy(online) if double else None,
        next_target=torch.from_numpy(following),
    )
    ours = quantile_targets_of(returns, discounts, following, online if double else following)
    np.testing.assert_allclose(ours, wanted, rtol=1e-14)


@pytest.mark.parametrize(
    ("means", "best"), [([1.0, 3.0, 3.0], 1), ([1.0, NAN, 3.0], 1), ([-1.0, -2.0, -1.0], 0)]
)
def test_the_best_action_by_quantiles_is_that_of_torch(means: list[float], best: int) -> None:
    assert int(torch.tensor(means).argmax()) == best
    selector = np.array(means)[None, :, None] + np.array([-1.0, 1.0])
    following = np.array([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]])
    ours = quantile_targets_of(np.array([1.0]), np.array([0.5]), following, selector)
    assert ours.tolist() == [[1 + 0.5 * value for value in following[0, best]]]
