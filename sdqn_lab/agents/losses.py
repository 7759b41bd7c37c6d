"""Temporal-difference errors, of values and of quantiles, losses of them, and of policies."""

import math
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


def categorical(logits: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability of the actions taken, and entropy, of pi = softmax(logits)::

        log pi(a) = logits[a] - log sum_b exp(logits[b])
        H         = - sum_b pi(b) log pi(b)

    Args:
        logits: (B, A).
        actions: (B,) int64, in [0, A).

    Returns:
        Both (B,); the entropy in nats, in [0, log A].
    """
    log_pi = logits.log_softmax(dim=1)
    taken = log_pi.gather(1, actions.unsqueeze(1)).squeeze(1)
    return taken, -(log_pi.exp() * log_pi).sum(dim=1)


def gaussian(outputs: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
    """Log-density of the actions taken, and entropy, of independent normal distributions::

        log pi(a) = sum_d [ - ((a_d - mean_d) / std_d)^2 / 2 - log std_d - log(2 pi) / 2 ]
        H         = sum_d [ log std_d + (1 + log(2 pi)) / 2 ]

    Args:
        outputs: (B, 2D), the means and then the logarithms of the standard deviations.
        actions: (B, D) as they were drawn, not clipped.

    Returns:
        Both (B,), in nats. They are of densities: log pi(a) may be above 0, the entropy below.
    """
    mean, log_std = outputs.chunk(2, dim=1)
    distance = (actions - mean) / log_std.exp()
    half_log = 0.5 * math.log(2 * math.pi)
    log_prob = (-0.5 * distance.square() - log_std - half_log).sum(dim=1)
    return log_prob, (log_std + 0.5 + half_log).sum(dim=1)


def ppo_policy_loss(
    log_prob: Tensor, old_log_prob: Tensor, advantages: Tensor, clip_ratio: float
) -> Tensor:
    """Clipped objective of a policy, as a loss; (B,) -> ()::

        rho  = exp(log_prob - old_log_prob)
        loss = mean max(-A rho, -A clip(rho, 1 - clip_ratio, 1 + clip_ratio))

    Where a step has already moved rho beyond the clip in the direction of A, it has no gradient.

    Args:
        log_prob: (B,) of the actions taken, under the policy that learns.
        old_log_prob: (B,) of the same under the policy that acted.
        advantages: (B,) A, as they are: not normalized here.
        clip_ratio: > 0.

    Source: Schulman et al. 2017 (arXiv 1707.06347), equation 7.
    """
    ratio = (log_prob - old_log_prob).exp()
    clipped = ratio.clamp(1.0 - clip_ratio, 1.0 + clip_ratio)
    return torch.maximum(-advantages * ratio, -advantages * clipped).mean()


def clipped_value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, clip_range: float
) -> Tensor:
    """Half the mean squared error of values that may move by `clip_range` only; (B,) -> ()::

        v_clip = old + clip(v - old, -clip_range, clip_range)
        loss   = mean max((v - R)^2, (v_clip - R)^2) / 2

    Args:
        values: (B,) v, of the network that learns.
        old_values: (B,) of the network that acted.
        returns: (B,) R.
        clip_range: > 0, in units of the values.

    Source: OpenAI baselines' PPO2, as CleanRL states it.
    """
    clipped = old_values + (values - old_values).clamp(-clip_range, clip_range)
    errors = torch.maximum((values - returns).square(), (clipped - returns).square())
    return 0.5 * errors.mean()


def normalized(advantages: Tensor) -> Tensor:
    """(A - mean) / (std + 1e-8), the unbiased std of the batch; (B,) -> (B,).

    Of fewer than two there is no such std; they stay as they are.
    """
    if len(advantages) < 2:
        return advantages
    return (advantages - advantages.mean()) / (advantages.std() + 1e-8)


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
