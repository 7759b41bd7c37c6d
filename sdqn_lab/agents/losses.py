"""Temporal-difference errors of values and of quantiles, and the losses taken of them."""

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


def quantile_huber(current: Tensor, target: Tensor, tau: Tensor, kappa: float = 1.0) -> Tensor:
    """Quantile Huber loss, summed over current quantiles and averaged over targets, per sample::

        d_ij = target_j - current_i
        loss = sum_i mean_j |tau_i - 1[d_ij < 0]| L(d_ij)
        L(d) = d^2 / 2 where abs(d) <= kappa, else kappa (abs(d) - kappa / 2)

    With kappa = 0 L is the absolute value; no factor of kappa is divided out, so that is no limit.
    The weight of an error carries no gradient.

    Args:
        current: (B, N) estimates of the quantiles, in units of the return.
        target: (B, M) samples of what they are to be the quantiles of.
        tau: (B, N) which quantiles they are, in (0, 1).
        kappa: corner of the Huber loss, in units of the return, >= 0.

    Returns:
        (B,).

    Source: Dabney, Rowland, Bellemare and Munos 2018, equations 9 and 10.
    """
    error = target.unsqueeze(1) - current.unsqueeze(2)
    weight = (tau.unsqueeze(2) - (error.detach() < 0).to(error.dtype)).abs()
    size = error.abs()
    if kappa > 0:
        size = torch.where(size <= kappa, 0.5 * size.square(), kappa * (size - 0.5 * kappa))
    return (weight * size).mean(2).sum(1)


def quantile_targets(
    returns: Tensor, discounts: Tensor, *, next_online: Tensor | None, next_target: Tensor
) -> Tensor:
    """Returns and the quantiles of the best next action: returns + discounts * next_target[a*].

    a* has the largest mean in next_online (double), or in next_target; of equal means the first.

    Args:
        returns: (B,) n-step returns.
        discounts: (B,) of the value behind them; 0 where there is none.
        next_online: (B, A, N) quantiles by the online network; None: plain Q-learning.
        next_target: (B, A, M) quantiles by the target network.

    Returns:
        (B, M), without a gradient.
    """
    selector = next_target if next_online is None else next_online
    following = of_actions(next_target, selector.mean(2).argmax(1))
    return (returns.unsqueeze(1) + discounts.unsqueeze(1) * following).detach()


def of_actions(quantiles: Tensor, actions: Tensor) -> Tensor:
    """The quantiles (B, N) of one action each, out of those of all, (B, A, N), by number (B,)."""
    index = actions.view(-1, 1, 1).expand(-1, 1, quantiles.shape[2])
    return quantiles.gather(1, index).squeeze(1)
