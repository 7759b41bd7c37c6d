"""Proximal policy optimization: several passes over a rollout, each step of the policy clipped."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sdqn_lab.agents.base import EnvSpec
from sdqn_lab.agents.losses import (
    clipped_value_loss,
    mse,
    normalized,
    ppo_policy_loss,
)
from sdqn_lab.agents.policy_agent import ActorCritic, Batch
from sdqn_lab.checks.ranges import Count, NonNegative, Positive, Share, check_arguments


class PPO(ActorCritic):
    """PPO with a clipped ratio; rollouts, advantages A and returns R are those of `ActorCritic`.

    Of each minibatch, with rho = pi(a|s) / pi_old(a|s), the probability of acting in the
    denominator, v_old the value of acting, and c = `clip_ratio`::

        A'   = (A - mean A) / (std A + 1e-8)
        L_pi = mean max(-A' rho, -A' clip(rho, 1 - c, 1 + c))
        L_v  = mean max((V - R)^2, (v_old + clip(V - v_old, -c, c) - R)^2) / 2
        L    = L_pi + value_coef L_v - entropy_coef mean H(pi)

    theta <- Adam step on L. A minibatch runs all T simulation steps anew, so that rho is 1 in the
    first update of a rollout; not so with a random encoder or batch normalization, whose forwards
    differ while acting and learning.

    Bounded firing rates cannot carry large values, hence `reward_scale` (see `PQN`); c clips values
    in units of scaled rewards.

    Args:
        network: called as network(observations, generator=...) -> {"policy": (B, A) or (B, 2D),
            "value": V (B, 1)}.
        env: the environment's shapes.
        seed: of actions ("explore"), of the minibatches ("shuffle") and of a network that draws
            ("encoder").
        num_envs: N.
        iteration_steps: agent steps between evaluations; rollouts go on over its end.
        rollout_steps: M.
        epochs: passes over a rollout.
        minibatches: updates of a pass.
        gamma: discount of one agent step.
        gae_lambda: 0: advantages of one step; 1: rewards until the rollout's end.
        clip_ratio: c.
        clip_values: whether values are clipped; else L_v = mean (V - R)^2 / 2.
        normalize_advantages: whether A' is normalized; else A' = A.
        value_coef: weight of the values' loss.
        entropy_coef: weight of the entropy.
        shared_trunk: whether policy and value read one torso; else each has its own.
        learning_rate: Adam's at step 0.
        learning_rate_decay_steps: agent steps in which it falls to 0, on a straight line; None: it
            is constant.
        adam_eps: Adam's epsilon.
        max_grad_norm: largest L2 norm of the gradient over all parameters; None: no limit.
        reward_scale: learning sees rewards times this; returns in records are unscaled.

    Raises:
        Refused: an argument outside its range.

    Source: Schulman et al. 2017 (arXiv 1707.06347); details as in CleanRL.
    """

    def __init__(
        self,
        network: nn.Module,
        env: EnvSpec,
        *,
        seed: int,
        num_envs: Count = 8,
        iteration_steps: Count = 250_000,
        rollout_steps: Count = 128,
        epochs: Count = 4,
        minibatches: Count = 4,
        gamma: Share = 0.99,
        gae_lambda: Share = 0.95,
        clip_ratio: Positive = 0.2,
        clip_values: bool = True,
        normalize_advantages: bool = True,
        value_coef: NonNegative = 0.5,
        entropy_coef: NonNegative = 0.01,
        shared_trunk: bool = True,
        learning_rate: Positive = 2.5e-4,
        learning_rate_decay_steps: Count | None = None,
        adam_eps: Positive = 1e-5,
        max_grad_norm: Positive | None = 0.5,
        reward_scale: Positive = 1.0,
    ) -> None:
        check_arguments(PPO.__init__, locals())
        super().__init__(
            network,
            env,
            seed=seed,
            num_envs=num_envs,
            iteration_steps=iteration_steps,
            rollout_steps=rollout_steps,
            epochs=epochs,
            minibatches=minibatches,
            gamma=gamma,
            gae_lambda=gae_lambda,
            value_coef=value_coef,
            entropy_coef=entropy_coef,
            optimizer=torch.optim.Adam(network.parameters(), lr=learning_rate, eps=adam_eps),
            learning_rate_decay_steps=learning_rate_decay_steps,
            max_grad_norm=max_grad_norm,
            reward_scale=reward_scale,
        )
        self.clip_ratio, self.clip_values = clip_ratio, clip_values
        self.normalize_advantages = normalize_advantages

    def loss(self, batch: Batch, outputs: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """See `PolicyAgent`.

        Metrics: "loss/policy" L_pi, "loss/value" L_v, "policy/entropy" mean H in nats,
        "policy/approx_kl" mean (rho - 1 - log rho), "policy/clip_fraction" share of rho outside
        [1 - c, 1 + c].
        """
        log_prob, entropy = self.judged(outputs["policy"], batch["actions"])
        values, returns = outputs["value"].squeeze(1), batch["return"]
        advantages = batch["advantage"]
        if self.normalize_advantages:
            advantages = normalized(advantages)
        of_policy = ppo_policy_loss(log_prob, batch["log_prob"], advantages, self.clip_ratio)
        if self.clip_values:
            of_value = clipped_value_loss(values, batch["value"], returns, self.clip_ratio)
        else:
            of_value = 0.5 * mse(returns - values)
        bonus = entropy.mean()
        loss = of_policy + self.value_coef * of_value - self.entropy_coef * bonus
        log_ratio = (log_prob - batch["log_prob"]).detach()
        ratio = log_ratio.exp()
        outside = (ratio - 1.0).abs() > self.clip_ratio
        return loss, {
            "loss/policy": of_policy.detach(),
            "loss/value": of_value.detach(),
            "policy/entropy": bonus.detach(),
            "policy/approx_kl": (ratio - 1.0 - log_ratio).mean(),
            "policy/clip_fraction": outside.float().mean(),
        }
