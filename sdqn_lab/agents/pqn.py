"""Parallelized Q-learning: rollouts in place of replay, normalization in place of a target."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from sdqn_lab.agents.base import Arguments, Array, Decision, EnvSpec, Row, RunFacts
from sdqn_lab.agents.descent import descend
from sdqn_lab.agents.losses import mse
from sdqn_lab.agents.q_agent import QAgent
from sdqn_lab.agents.returns import lambda_returns
from sdqn_lab.agents.rollout import Rollout, rollout_bytes, rollout_problems, rollout_updates
from sdqn_lab.agents.schedules import LinearSchedule
from sdqn_lab.agents.seeding import stream
from sdqn_lab.checks.ranges import Count, Positive, Share, check_arguments
from sdqn_lab.checks.refused import Refused
from sdqn_lab.engines.losses import value_gradient


class Lesson(NamedTuple):
    """Transitions to learn from, B of them, on the agent's device.

    observations (B, *observation_shape) in the environment's dtype; actions (B,) int64; targets
    (B,) float32.
    """

    observations: Tensor
    actions: Tensor
    targets: Tensor

    def part(self, index: Tensor) -> "Lesson":
        """Those at an index (b,)."""
        return Lesson(*(column[index] for column in self))


class PQN(QAgent):
    """Q-learning from rollouts, with Q(lambda) targets, without replay and target network.

    A rollout is M = `rollout_steps` steps of N = `num_envs` environments. While acting,
    v_t = max_a Q(s_t, a) is kept, in evaluation mode. With it, once v_M is known::

        G_t     = r_t + d_t [(1 - q_lambda) v_{t+1} + q_lambda G_{t+1}]
        G_{M-1} = r_{M-1} + d_{M-1} v_M
        r_t     = reward_scale * reward
        d_t     = gamma, or 0 after a terminal step
        theta  <- RAdam step on mean (G - Q(s, a))^2 / 2

    A truncated episode ends with v of its final observation in place of G. The steps of a rollout
    are shuffled `epochs` times and cut into `minibatches` parts, an update for each; steps that
    only start an episode are left out. Exploratory actions do not cut the return (Peng's
    Q(lambda)). v_M is known when the next rollout's first actions are chosen, so these are chosen
    before the update (docs/DEVIATIONS.md, row 58).

    Bounded firing rates cannot carry large values: on CartPole, whose values reach 100 at
    gamma = 0.99, a spiking network ended at scores of 9 and 10 with reward_scale 1 and a learning
    rate of 2.5e-4, and at 500 and 208 with 0.1 and 1e-3 (two seeds each, 100k steps, T = 8).

    Args:
        network: called as network(observations, time_window=..., generator=...) -> (B, A).
        env: the environment's shapes.
        seed: of exploration ("explore"), of the minibatches ("shuffle") and of a network that
            draws ("encoder").
        num_envs: N.
        iteration_steps: agent steps between evaluations; rollouts go on over its end.
        rollout_steps: M.
        epochs: passes over a rollout.
        minibatches: updates of a pass.
        gamma: discount of one agent step.
        q_lambda: 0: one-step targets; 1: rewards until the rollout's end.
        learning_rate: RAdam's at step 0.
        learning_rate_decay_steps: agent steps in which it falls to 0, on a straight line; None: it
            is constant.
        adam_eps: RAdam's epsilon.
        max_grad_norm: largest L2 norm of the gradient over all parameters; None: no limit.
        reward_scale: learning sees rewards times this; returns in records are unscaled.
        epsilon_begin: exploration at the start.
        epsilon_end: exploration from epsilon_decay_steps on; linear between.
        epsilon_decay_steps: agent steps of the decay.

    Raises:
        Refused: an argument outside its range.

    Source: Gallici et al. 2025 (arXiv 2407.04811); the loss has the factor of the authors' code.
    """

    def __init__(
        self,
        network: nn.Module,
        env: EnvSpec,
        *,
        seed: int,
        num_envs: Count = 128,
        iteration_steps: Count = 250_000,
        rollout_steps: Count = 32,
        epochs: Count = 2,
        minibatches: Count = 32,
        gamma: Share = 0.99,
        q_lambda: Share = 0.65,
        learning_rate: Positive = 2.5e-4,
        learning_rate_decay_steps: Count | None = None,
        adam_eps: Positive = 1e-8,
        max_grad_norm: Positive | None = 10.0,
        reward_scale: Positive = 1.0,
        epsilon_begin: Share = 1.0,
        epsilon_end: Share = 0.05,
        epsilon_decay_steps: Count = 250_000,
    ) -> None:
        check_arguments(PQN.__init__, locals())
        super().__init__(
            network,
            env,
            seed=seed,
            num_envs=num_envs,
            iteration_steps=iteration_steps,
            epsilon=LinearSchedule(epsilon_begin, epsilon_end, epsilon_decay_steps),
            max_grad_norm=max_grad_norm,
        )
        self.epochs, self.minibatches = epochs, minibatches
        self.gamma, self.q_lambda, self.reward_scale = gamma, q_lambda, reward_scale
        last = learning_rate if learning_rate_decay_steps is None else 0.0
        self.learning_rate = LinearSchedule(learning_rate, last, learning_rate_decay_steps or 1)
        self.optimizer = torch.optim.RAdam(network.parameters(), lr=learning_rate, eps=adam_eps)
        self.rollout = Rollout(rollout_steps)
        self._shuffle = stream(seed, "shuffle")
        self._seen: Tensor | None = None

    def values(self, observations: Array) -> Tensor:
        """Q of one vector step, (N, A) on the network's device, in evaluation mode."""
        return self._policy.outputs(observations)

    def act(self, observations: Array, step: int) -> Decision:
        """Choose epsilon-greedily; the network is asked even where all actions are random."""
        q = self.values(observations)
        return Decision(self.explore(observations, step, q).actions, _extras(q))

    def observe(self, row: Row, extras: Mapping[str, Array]) -> None:
        """Add a row to the rollout."""
        self.rollout.append(row, extras)

    def close(self, observations: Array) -> None:
        """End the timeline: running episodes are truncated, with the values of these."""
        self.rollout.close(observations, _extras(self.values(observations)))

    def learn(self, step: int) -> Iterator[dict[str, Tensor | float]]:
        """Make the updates of a complete rollout, and forget it."""
        while self.rollout.complete:
            lesson = self.lesson()
            for group in self.optimizer.param_groups:
                group["lr"] = self.learning_rate(step)
            for _ in range(self.epochs):
                order = torch.from_numpy(self._shuffle.permutation(len(lesson.actions)))
                for index in order.to(self.device).tensor_split(self.minibatches):
                    # Empty where nearly all steps of the rollout only started episodes.
                    if len(index):
                        batch = lesson.part(index)
                        self._seen = batch.observations
                        yield self.update(*batch)
            self.rollout.advance()

    def lesson(self) -> Lesson:
        """The valid steps of the complete rollout with their targets, in order of time."""
        columns = self.rollout.columns()
        value = columns.pop("value")
        seen, actions, rewards, terminal, valid = (column[:-1] for column in columns.values())
        # A row that is not valid hands its own value back to the one before, which it follows.
        targets = lambda_returns(
            np.where(valid, self.reward_scale * rewards, value[:-1]),
            np.where(valid & ~terminal, self.gamma, 0.0),
            value[1:],
            self.q_lambda,
        )
        device = self.device
        return Lesson(
            torch.from_numpy(seen[valid]).to(device),
            torch.from_numpy(actions[valid]).to(device),
            torch.from_numpy(targets[valid].astype(np.float32)).to(device),
        )

    def update(
        self, observations: Tensor, actions: Tensor, targets: Tensor
    ) -> dict[str, Tensor | float]:
        """Make one gradient step.

        Args:
            observations: (B, *observation_shape).
            actions: (B,) taken there, int64.
            targets: (B,) G.

        Returns:
            Numbers, or 0-d tensors that stay on the device: "loss/td", "q/mean" (mean of Q over the
            batch at the actions taken) and "grad/norm" (L2 over all parameters, before clipping).
        """
        self.updates += 1
        if self.engine is not None:
            taken, wanted = actions.numpy(), targets.numpy()

            def judge(q: Array, of_q: Array, numbers: Array) -> None:
                value_gradient(q, taken, wanted, False, 0.5, of_q, numbers)

            return self.compiled_step(observations.numpy(), judge)
        q = self.network.train()(observations, generator=self.generator)
        taken = q.gather(1, actions.unsqueeze(1)).squeeze(1)
        loss = 0.5 * mse(targets - taken)
        grad_norm = descend(loss, self.network, self.optimizer, self.max_grad_norm)
        return {"loss/td": loss.detach(), "q/mean": taken.detach().mean(), "grad/norm": grad_norm}

    def sample(self, rng: np.random.Generator) -> Tensor | None:
        """Observations of the last minibatch; None before the first."""
        return self._seen

    def state_dict(self) -> dict[str, Any]:
        """Everything, the rollout so far included; it shares memory with the agent."""
        return {
            **super().state_dict(),
            "shuffle": self._shuffle.bit_generator.state,
            "rollout": self.rollout.state_dict(),
            "seen": self._seen,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state made by `state_dict` of an agent built alike; see `QAgent`."""
        super().load_state_dict(state)
        self._shuffle.bit_generator.state = state["shuffle"]
        self.rollout.load_state_dict(state["rollout"])
        self._seen = state["seen"]

    @staticmethod
    def memory_bytes(arguments: Arguments, env: EnvSpec) -> int:
        """Bytes of the rollout, which keeps the value, and of the copy that is learned from."""
        return rollout_bytes(arguments, env, extras=1)

    @staticmethod
    def updates_made(arguments: Arguments, steps: int) -> int:
        """Those of all rollouts that are followed by another row, steps of all environments."""
        return rollout_updates(arguments, steps)

    @staticmethod
    def problems(arguments: Arguments, run: RunFacts) -> list[Refused]:
        """A rollout must fit its minibatches, the run and the memory, the decay the run."""
        found = QAgent.problems(arguments, run) + rollout_problems(arguments, run)
        key, needed = "algo.rollout_steps", PQN.memory_bytes(arguments, run.env)
        return found + run.too_large(key, arguments["rollout_steps"], "a rollout", needed, "cpu")


def _extras(q: Tensor) -> dict[str, Array]:
    return {"value": q.max(dim=1).values.cpu().numpy()}
