"""Losses of the engine are those of `agents.losses`, and their gradients those of autograd."""

import math

import numpy as np
import pytest
import torch

from sdqn_lab.agents.losses import huber, mse, td_error
from sdqn_lab.engines.losses import bootstrap, value_gradient

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
