"""Advantage actor-critic: one update from all steps of a short rollout."""

from collections.abc import Mapping
from typing import Annotated

import torch
from torch import Tensor, nn

from sdqn_lab.agents.base import EnvSpec
from sdqn_lab.agents.losses import mse, normalized
from sdqn_lab.agents.policy_agent import ActorCritic, Batch
from sdqn_lab.checks.ranges import (
    Count,
    NonNegative,
    OneOf,
    Positive,
    Share,
    check_arguments,
)


class A2C(ActorCritic):
    """A2C; rollouts, advantages A and returns R are those of `ActorCritic`.

    Of all steps of a rollout::

        L = mean (-A log pi(a|s)) + value_coef mean (R - V)^2 - entropy_coef mean H(pi)

    theta <- RMSprop step on L, with a decay of 0.99.

    Bounded firing rates cannot carry large values, hence `reward_scale` (see `PQN`).

    Under `spike_gradient=score_function` (see `PolicyAgent`) values need a torso of their own: V of
    the scored spikes themselves would be no baseline. That torso learns by surrogates as ever; what
    it learns moves the policy's gradient in its noise alone, as far as A ends in rewards.

    Args:
        network: called as network(observations, generator=...) -> {"policy": (B, A) or (B, 2D),
            "value": V (B, 1)}.
        env: the environment's shapes.
        seed: of actions ("explore") and of a network that draws ("encoder").
        num_envs: N.
        iteration_steps: agent steps between evaluations; rollouts go on over its end.
        rollout_steps: M.
        gamma: discount of one agent step.
        gae_lambda: 0: advantages of one step; 1: rewards until the rollout's end.
        normalize_advantages: whether the A of an update are brought to mean 0 and deviation 1.
        value_coef: weight of the values' loss.
        entropy_coef: weight of the entropy.
        shared_trunk: whether policy and value read one torso; else each has its own.
        learning_rate: RMSprop's at step 0.
        learning_rate_decay_steps: agent steps in which it falls to 0, on a straight line; None: it
            is constant.
        rmsprop_eps: RMSprop's epsilon, added to the root.
        max_grad_norm: largest L2 norm of the gradient over all parameters; None: no limit.
        reward_scale: learning sees rewards times this; returns in records are unscaled.
        spike_gradient: of the policy's spikes: surrogate, or score_function (`neuron=bernoulli`).

    Raises:
        Refused: an argument outside its range.

    Source: Mnih et al. 2016 (arXiv 1602.01783), without its asynchrony; details as in
    Stable-Baselines3.
    """

    def __init__(
        self,
        network: nn.Module,
        env: EnvSpec,
        *,
        seed: int,
        num_envs: Count = 16,
        iteration_steps: Count = 250_000,
        rollout_steps: Count = 5,
        gamma: Share = 0.99,
        gae_lambda: Share = 1.0,
        normalize_advantages: bool = False,
        value_coef: NonNegative = 0.5,
        entropy_coef: NonNegative = 0.0,
        shared_trunk: bool = True,
        learning_rate: Positive = 7e-4,
        learning_rate_decay_steps: Count | None = None,
        rmsprop_eps: Positive = 1e-5,
        max_grad_norm: Positive | None = 0.5,
        reward_scale: Positive = 1.0,
        spike_gradient: Annotated[str, OneOf("surrogate", "score_function")] = "surrogate",
    ) -> None:
        check_arguments(A2C.__init__, locals())
        super().__init__(
            network,
            env,
            seed=seed,
            num_envs=num_envs,
            iteration_steps=iteration_steps,
            rollout_steps=rollout_steps,
            gamma=gamma,
            gae_lambda=gae_lambda,
            value_coef=value_coef,
            entropy_coef=entropy_coef,
            optimizer=torch.optim.RMSprop(
                network.parameters(), lr=learning_rate, alpha=0.99, eps=rmsprop_eps
            ),
            learning_rate_decay_steps=learning_rate_decay_steps,
            max_grad_norm=max_grad_norm,
            reward_scale=reward_scale,
            spike_gradient=spike_gradient,
        )
        self.normalize_advantages = normalize_advantages

    def loss(self, batch: Batch, outputs: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """See `PolicyAgent`.

        Metrics: "loss/policy" mean (-A log pi), "loss/value" mean (R - V)^2, "policy/entropy" mean
        H in nats.
        """
        log_prob, entropy = self.judged(outputs["policy"], batch["actions"])
        advantages = batch["advantage"]
        if self.normalize_advantages:
            advantages = normalized(advantages)
        of_policy = -(advantages * log_prob).mean()
        of_value = mse(batch["return"] - outputs["value"].squeeze(1))
        bonus = entropy.mean()
        loss = of_policy + self.value_coef * of_value - self.entropy_coef * bonus
        loss = loss + self.spike_loss(outputs, advantages, entropy)
        return loss, {
            "loss/policy": of_policy.detach(),
            "loss/value": of_value.detach(),
            "policy/entropy": bonus.detach(),
        }
