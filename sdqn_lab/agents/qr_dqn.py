"""Deep Q-learning of whole distributions of the return, by quantile regression."""

from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from sdqn_lab.agents.base import Arguments, Array, EnvSpec
from sdqn_lab.agents.dqn import DQN
from sdqn_lab.agents.losses import of_actions, quantile_huber, quantile_targets
from sdqn_lab.agents.policy import GreedyInMean
from sdqn_lab.agents.replay import Batch
from sdqn_lab.checks.ranges import (
    Count,
    Natural,
    NonNegative,
    Positive,
    Share,
    Weight,
    check_arguments,
)
from sdqn_lab.engines.losses import quantile_bootstrap, quantile_gradient
from sdqn_lab.envs.base import ActionSpace


class QRDQN(DQN):
    """DQN that learns N quantiles of the return of every action; an action's value is their mean.

    The head has A N outputs, the N of the first action first. An update is that of `DQN` with::

        tau_i = (i + 1/2) / N                                       i = 0, ..., N - 1
        y_j   = returns + discounts * theta'_j(next, a*),
                a* = argmax of mean_j theta_j(next, a) if double, else of mean_j theta'_j(next, a)
        loss  = mean over the batch of sum_i mean_j |tau_i - 1[d_ij < 0]| L_kappa(d_ij),
                d_ij = y_j - theta_i(observation, action)

    with L_kappa the Huber loss with its corner at kappa. The sum over i makes gradients about N
    times those of a DQN, which counts for `max_grad_norm` and `adam_eps`, and else not under Adam.

    Args:
        network: called as network(observations, time_window=..., generator=...) -> (B, A N).
        env: see `DQN`, as all arguments that are not named here; it has no `loss`.
        quantiles: N, outputs of the head for each action.
        kappa: corner of the Huber loss, in units of the return; 0: absolute errors.

    Raises:
        Refused: an argument outside its range.

    Source: Dabney, Rowland, Bellemare and Munos 2018, "Distributional Reinforcement Learning with
    Quantile Regression"; `double` is an option of rlax 0.1.9.
    """

    def __init__(
        self,
        network: nn.Module,
        env: EnvSpec,
        *,
        seed: int,
        quantiles: Count = 200,
        kappa: NonNegative = 1.0,
        num_envs: Count = 8,
        iteration_steps: Count = 250_000,
        double: bool = False,
        gamma: Share = 0.99,
        n_step: Count = 1,
        optimizer: Literal["adam", "adamw"] = "adam",
        learning_rate: Positive = 5e-5,
        weight_decay: NonNegative = 0.0,
        adam_eps: Positive = 3.125e-4,
        max_grad_norm: Positive | None = None,
        batch_size: Count = 32,
        learn_every_steps: Count = 4,
        target_update_every_updates: Count = 2_500,
        target_ema: Weight = 1.0,
        replay_capacity_steps: Count = 1_000_000,
        replay_start_steps: Natural = 50_000,
        replay_device: Literal["cpu", "device"] = "cpu",
        epsilon_begin: Share = 1.0,
        epsilon_end: Share = 0.01,
        epsilon_decay_steps: Count = 1_000_000,
    ) -> None:
        given = dict(locals())
        check_arguments(QRDQN.__init__, given)
        for own in ("self", "__class__", "quantiles", "kappa"):
            del given[own]
        super().__init__(**given)
        self.kappa = kappa
        weight = next(network.parameters())
        self._tau = (torch.arange(quantiles).to(weight) + 0.5) / quantiles

    def td_loss(
        self, batch: Batch, next_q: Tensor, selector_q: Tensor | None, q: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See `DQN`; outputs are (B, A N)."""
        selector = None if selector_q is None else self._by_action(selector_q)
        targets = quantile_targets(
            batch.returns,
            batch.discounts,
            next_online=selector,
            next_target=self._by_action(next_q),
        )
        current = of_actions(self._by_action(q), batch.actions)
        tau = self._tau.to(q.dtype).expand_as(current)
        loss = quantile_huber(current, targets, tau, self.kappa).mean()
        return loss, current.detach().mean()

    def compiled_loss(
        self, batch: Batch, next_q: Array, selector_q: Array, q: Array, of_q: Array, numbers: Array
    ) -> None:
        """See `DQN`; outputs are (B, A N)."""
        shape = len(q), self.env.num_actions, len(self._tau)
        following, selector, current, of_current = (
            outputs.reshape(shape) for outputs in (next_q, selector_q, q, of_q)
        )
        _, actions, returns, discounts, _ = (column.numpy() for column in batch)
        targets = np.empty_like(following[:, 0])
        quantile_bootstrap(returns, discounts, following, selector, targets)
        quantile_gradient(current, actions, targets, self.kappa, of_current, numbers)

    def _by_action(self, outputs: Tensor) -> Tensor:
        return outputs.view(len(outputs), self.env.num_actions, -1)

    @staticmethod
    def heads(num_actions: int, arguments: Arguments) -> dict[str, int]:
        """N quantiles for each action."""
        return {"q": num_actions * int(arguments["quantiles"])}

    @staticmethod
    def policy(
        network: nn.Module,
        actions: ActionSpace,
        *,
        epsilon: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> GreedyInMean:
        """Greedy in the mean of the quantiles, but for epsilon."""
        return GreedyInMean(network, actions, epsilon=epsilon, generator=generator)
