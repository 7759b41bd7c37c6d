"""n-step returns as a pure function of explicit arrays."""

from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


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
