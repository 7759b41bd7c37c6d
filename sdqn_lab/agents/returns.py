"""Returns of n steps, and of all steps weighted by lambda, as pure functions of arrays."""

from functools import cache
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from torch import Tensor

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
Arrays = TypeVar("Arrays", npt.NDArray[Any], Tensor)


class NStep(NamedTuple):
    """Return, bootstrap discount and number of steps summed; each of shape (B,)."""

    returns: FloatArray
    discounts: FloatArray
    lengths: IntArray


@cache
def powers(gamma: float, n_step: int) -> FloatArray:
    """Gamma to the power of 0 to n, (n + 1,); read-only, made once."""
    found: FloatArray = gamma ** np.arange(n_step + 1, dtype=np.float64)
    found.setflags(write=False)
    return found


def summed_steps(stop: BoolArray) -> BoolArray:
    """Say which steps of each window belong to the sum: those that no earlier stop cuts off.

    Args:
        stop: (n, B), True where the sum ends with this step.

    Returns:
        (n, B); the first row is always True.
    """
    summed = np.ones_like(stop)
    np.logical_and.accumulate(~stop[:-1], axis=0, out=summed[1:])
    return summed


def n_step_return(
    rewards: npt.NDArray[np.floating], terminal: BoolArray, stop: BoolArray, gamma: float
) -> NStep:
    """Sum the discounted rewards of n steps, or of fewer where an episode ends earlier.

    With k <= n the number of steps up to and including the first stop (n if there is none)::

        return   = sum_{j < k} gamma^j rewards[j]
        discount = gamma^k, or 0 if step k - 1 is terminal
        target   = return + discount * Q(state after k steps)

    Args:
        rewards: (n, B), step j of each window in row j; what follows a stop is ignored.
        terminal: (n, B), the bootstrap is cut after this step (game over, life lost).
        stop: (n, B), the sum ends with this step though the value after it counts (truncation);
            a terminal step stops whether it is marked here or not.
        gamma: discount of one step, in [0, 1].

    Source: Sutton and Barto, Reinforcement Learning, 2nd ed., section 7.1.
    """
    summed = summed_steps(stop | terminal)
    # In float64 until the end: n small rewards must not depend on the order of their sum.
    discounts = powers(gamma, len(rewards))
    lengths = summed.sum(axis=0, dtype=np.int64)
    cut = (summed & terminal).any(axis=0)
    returns = (discounts[:-1, None] * np.where(summed, rewards, 0.0)).sum(axis=0)
    return NStep(returns, np.where(cut, 0.0, discounts[lengths]), lengths)


def lambda_returns(
    rewards: Arrays, discounts: Arrays, next_values: Arrays, lambda_: float
) -> Arrays:
    """Mix the returns of all numbers of steps, up to the end of the rows, by lambda::

        G_t     = r_t + d_t [(1 - lambda) v_{t+1} + lambda G_{t+1}]
        G_{M-1} = r_{M-1} + d_{M-1} v_M

    Args:
        rewards: (M, N) r, time first; NumPy or torch, like the others.
        discounts: (M, N) d, of the value after each step; 0 where none is expected.
        next_values: (M, N) v of the observation after each step.
        lambda_: in [0, 1]; 0: one-step returns; 1: no bootstrap but the last.

    Returns:
        (M, N) G.

    Source: Sutton and Barto, Reinforcement Learning, 2nd ed., section 12.1; with v = max_a Q, Peng
    and Williams 1996.
    """
    returns: Arrays = rewards + discounts * next_values
    for t in reversed(range(len(rewards) - 1)):
        mixed = (1.0 - lambda_) * next_values[t] + lambda_ * returns[t + 1]
        returns[t] = rewards[t] + discounts[t] * mixed
    return returns


def gae(
    rewards: Arrays, discounts: Arrays, values: Arrays, next_values: Arrays, lambda_: float
) -> Arrays:
    """Mix the advantages of all numbers of steps, up to the end of the rows, by lambda::

        delta_t = r_t + d_t v_{t+1} - v_t
        A_t     = delta_t + lambda d_t A_{t+1},  0 after the last row

    A_t + v_t is the lambda-return of `lambda_returns` where v_{t+1} is the value of the next row.

    Args:
        rewards: (M, N) r, time first; NumPy or torch, like the others.
        discounts: (M, N) d, of the value after each step; 0 where none is expected.
        values: (M, N) v of each step's own observation.
        next_values: (M, N) v of the observation after each step.
        lambda_: in [0, 1]; 0: advantages of one step; 1: of all steps up to the last row.

    Returns:
        (M, N) A.

    Source: Schulman et al. 2016 (arXiv 1506.02438).
    """
    advantages: Arrays = rewards + discounts * next_values - values
    for t in reversed(range(len(rewards) - 1)):
        advantages[t] = advantages[t] + lambda_ * discounts[t] * advantages[t + 1]
    return advantages
