"""Temporal-difference error and the losses taken of it."""

from typing import Literal

import torch
from torch import Tensor

Loss = Literal["mse", "huber"]


def td_error(
    q: Tensor,
    actions: Tensor,
    returns: Tensor,
    discounts: Tensor,
    *,
    next_q_online: Tensor | None,
    next_q_target: Tensor,
) -> Tensor:
    """Difference between the bootstrapped target and the value of the action taken::

        a*    = argmax_a next_q_online (double), or argmax_a next_q_target
        error = returns + discounts * next_q_target[a*] - q[action]

    The target carries no gradient. Of equal values the first action is taken.

    Args:
        q: (B, A) values at the observation.
        actions: (B,) int64 actions taken, in [0, A).
        returns: (B,) n-step returns.
        discounts: (B,) gamma^k, 0 after a terminal step.
        next_q_online: (B, A) the online network's values k steps later, or None for plain DQN.
        next_q_target: (B, A) the target network's values k steps later.

    Source: Mnih et al. 2015; van Hasselt, Guez and Silver 2016 (double).
    """
    selector_q = next_q_target if next_q_online is None else next_q_online
    best = selector_q.argmax(dim=1, keepdim=True)
    next_value = next_q_target.gather(1, best).squeeze(1)
    target = (returns + discounts * next_value).detach()
    return target - q.gather(1, actions.unsqueeze(1)).squeeze(1)


def mse(error: Tensor) -> Tensor:
    """Mean of error^2 over the batch, without a factor 1/2; (B,) -> ()."""
    return error.square().mean()


def huber(error: Tensor) -> Tensor:
    """Mean Huber loss with its corner at 1; (B,) -> ().

    Per entry error^2 / 2 where abs(error) <= 1, else abs(error) - 1/2, so that the gradient with
    respect to the error never exceeds 1.

    Source: Mnih et al. 2015 (error clipping), which has this gradient.
    """
    size = error.abs()
    return torch.where(size <= 1.0, 0.5 * size.square(), size - 0.5).mean()
