"""An algorithm: one class; `conf/algo/expected_sarsa.yaml` is its option."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sdqn_lab.agents.base import Agent, Arguments, Array, Decision, EnvSpec, Row
from sdqn_lab.agents.descent import descend
from sdqn_lab.agents.policy import Greedy
from sdqn_lab.agents.seeding import restore, stream, stream_seed
from sdqn_lab.checks.ranges import Count, Positive, Share, check_arguments
from sdqn_lab.envs.base import ActionSpace


class ExpectedSarsa(Agent):
    """Learns from every step as it comes, without replay and target network.

    From the last step s, a, r, s' of all N environments::

        v(s') = (1 - epsilon) max_b Q(s', b) + epsilon mean_b Q(s', b),   0 where it was terminal
        L     = mean (r + gamma v(s') - Q(s, a))^2

    theta <- Adam step on L; v carries no gradient.

    Args:
        network: called as network(observations, generator=...) -> Q-values (B, A).
        env: the environment's shapes.
        seed: of exploration ("explore") and of a network that draws ("encoder").
        num_envs: N.
        iteration_steps: agent steps between evaluations.
        gamma: discount of one agent step.
        epsilon: probability of a random action.
        learning_rate: Adam's.

    Raises:
        Refused: an argument outside its range.

    Source: van Seijen et al. 2009.
    """

    def __init__(
        self,
        network: nn.Module,
        env: EnvSpec,
        *,
        seed: int,
        num_envs: Count,
        iteration_steps: Count,
        gamma: Share = 0.99,
        epsilon: Share = 0.1,
        learning_rate: Positive = 1e-3,
    ) -> None:
        check_arguments(ExpectedSarsa.__init__, locals())
        super().__init__(
            network, env, seed=seed, num_envs=num_envs, iteration_steps=iteration_steps
        )
        self.gamma, self.epsilon = gamma, epsilon
        self.optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate)
        self.rows: list[Row] = []
        self.explore = stream(seed, "explore")
        self.generator = torch.Generator(self.device).manual_seed(stream_seed(seed, "encoder"))
        self.acting = self.policy(network, env.actions, epsilon=epsilon, generator=self.generator)

    def act(self, observations: Array, step: int) -> Decision:
        """Epsilon-greedily."""
        return Decision(self.acting.act(observations, self.explore).actions, {})

    def observe(self, row: Row, extras: Mapping[str, Array]) -> None:
        """Keep this row and the one before, whose s' it shows."""
        self.rows = [*self.rows[-1:], row]

    def close(self, observations: Array) -> None:
        """The next row begins new episodes and shows no s'; the last step is not learned from."""
        self.rows = []

    def learn(self, step: int) -> Iterator[Mapping[str, Tensor | float]]:
        """One update a step, from the second on."""
        if len(self.rows) < 2:
            return
        last, following = self.rows
        seen, actions, rewards, terminal, valid, after = (
            torch.from_numpy(column).to(self.device) for column in (*last, following.observations)
        )
        network = self.network.train()
        with torch.no_grad():
            next_q = network(after, generator=self.generator)
            value = (1 - self.epsilon) * next_q.amax(1) + self.epsilon * next_q.mean(1)
        taken = network(seen, generator=self.generator).gather(1, actions.unsqueeze(1)).squeeze(1)
        error = rewards + self.gamma * value * ~terminal - taken
        # A row that is not valid only started an episode: its action was ignored.
        loss = (valid * error.square()).mean()
        norm = descend(loss, network, self.optimizer, None)
        yield {"loss/td": loss.detach(), "q/mean": taken.detach().mean(), "grad/norm": norm}

    def sample(self, rng: np.random.Generator) -> Tensor | None:
        """The newest observations."""
        return torch.from_numpy(self.rows[-1].observations) if self.rows else None

    def state_dict(self) -> dict[str, Any]:
        """All that the future depends on."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rows": self.rows,
            "explore": self.explore.bit_generator.state,
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the state of an agent built alike."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.rows = [Row(*row) for row in state["rows"]]
        self.explore.bit_generator.state = state["explore"]
        restore(self.generator, state["generator"])

    @staticmethod
    def heads(num_actions: int, arguments: Arguments) -> dict[str, int]:
        """One value for each action."""
        return {"q": num_actions}

    @staticmethod
    def policy(
        network: nn.Module,
        actions: ActionSpace,
        *,
        epsilon: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Greedy:
        """Greedy in the values, but for epsilon."""
        return Greedy(network, actions, epsilon=epsilon, generator=generator)

    @staticmethod
    def updates_made(arguments: Arguments, steps: int) -> int:
        """One for each step of all environments."""
        return int(steps // arguments["num_envs"])
