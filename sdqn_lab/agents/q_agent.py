"""What agents share that act by the values of actions."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sdqn_lab.agents.base import Arguments, Array, EnvSpec, RunFacts
from sdqn_lab.agents.gradient_agent import GradientAgent
from sdqn_lab.agents.policy import Choice, Greedy
from sdqn_lab.agents.schedules import LinearSchedule
from sdqn_lab.agents.seeding import restore, stream, stream_seed
from sdqn_lab.checks.refused import Refused
from sdqn_lab.envs.base import ActionSpace


class QAgent(GradientAgent):
    """Acts epsilon-greedily by Q(s, a), the one head of its network, and learns by gradient steps.

    Args:
        network: called as network(observations, time_window=..., generator=...) -> (B, A).
        env: the environment's shapes.
        seed: of exploration ("explore") and of a network that draws ("encoder").
        num_envs: environments stepped together.
        iteration_steps: agent steps between evaluations.
        epsilon: exploration by agent step.
        max_grad_norm: largest L2 norm of the gradient over all parameters, > 0; None: no limit.

    Attributes:
        updates: gradient steps made.
        generator: where a network that draws draws from while it acts and learns.
    """

    def __init__(
        self,
        network: nn.Module,
        env: EnvSpec,
        *,
        seed: int,
        num_envs: int,
        iteration_steps: int,
        epsilon: LinearSchedule,
        max_grad_norm: float | None,
    ) -> None:
        super().__init__(
            network, env, seed=seed, num_envs=num_envs, iteration_steps=iteration_steps
        )
        self.epsilon, self.max_grad_norm = epsilon, max_grad_norm
        self.updates = 0
        self._policy = self.policy(network, env.num_actions)
        self._explore = stream(seed, "explore")
        self.generator = torch.Generator(self.device).manual_seed(stream_seed(seed, "encoder"))
        self._policy.generator = self.generator

    def explore(self, observations: Array, step: int, q: Tensor | None = None) -> Choice:
        """Choose epsilon-greedily, for each environment on its own.

        Args:
            observations: (N, *observation_shape).
            step: agent steps so far.
            q: (N, A) values of the observations, if they are known already.
        """
        self._policy.epsilon = self.epsilon(step)
        return self._policy.act(observations, self._explore, outputs=q)

    def compiled_step(
        self, observations: Array, loss: Callable[[Array, Array, Array], None]
    ) -> dict[str, Tensor | float]:
        """Make one gradient step by the engine.

        Args:
            observations: (B, *observation_shape).
            loss: called with the outputs (B, K) there, an array (B, K) that receives the loss's
                gradient with respect to them, and one (2,) for the loss and the mean of Q(s, a).

        Returns:
            "loss/td", "q/mean" and "grad/norm".
        """
        engine = self.engine
        assert engine is not None
        q = engine.network.forward(observations)
        of_q, numbers = np.empty_like(q), np.empty(2)
        loss(q, of_q, numbers)
        engine.network.backward(observations, of_q)
        norm = engine.step(self.max_grad_norm)
        value, mean = numbers.tolist()
        return {"loss/td": value, "q/mean": mean, "grad/norm": norm}

    def metrics(self, step: int) -> dict[str, float]:
        """Exploration at this step."""
        return {"epsilon": self.epsilon(step)}

    def state_dict(self) -> dict[str, Any]:
        """Network, optimizer, number of updates and random streams, as plain containers.

        Like that of a module it shares memory with the agent: write or copy it before going on.
        """
        return super().state_dict() | {
            "updates": self.updates,
            "generator": self.generator.get_state(),
            "explore": self._explore.bit_generator.state,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state made by `state_dict` of an agent built alike.

        Generators of different kinds of device have different states: moved to another kind, the
        encoder draws from the stream that this agent was built with.
        """
        super().load_state_dict(state)
        self.updates = state["updates"]
        self._explore.bit_generator.state = state["explore"]
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
    def problems(arguments: Arguments, run: RunFacts) -> list[Refused]:
        """Exploration decays."""
        begin, end = arguments["epsilon_begin"], arguments["epsilon_end"]
        rule = f"above algo.epsilon_begin={begin}, and exploration decays"
        return [Refused("algo.epsilon_end", end, rule, f"{begin} or less")] if end > begin else []
