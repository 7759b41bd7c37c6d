"""Acting with a network: one class for evaluation, play and `sdqn_lab.load`."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from sdqn_lab.agents.returns import BoolArray, IntArray
from sdqn_lab.engines.network import compiled


class Choice(NamedTuple):
    """What a policy decided for N observations.

    Attributes:
        actions: (N,) int64.
        explored: (N,) whether the action was drawn uniformly at random.
        outputs: (N, K) what the network answered, on its device; None where every action was
            random and the network was therefore not asked.
    """

    actions: IntArray
    explored: BoolArray
    outputs: Tensor | None


class Policy(ABC):
    """A rule from the network's outputs to actions, mixed with uniformly random actions.

    Args:
        network: called as network(observations, time_window=..., generator=...) -> (N, K), or with
            several heads a dictionary of such outputs.
        num_actions: A, >= 1.
        epsilon: probability of a uniformly random action, in [0, 1].
        generator: random source of a network that draws (Poisson encoder), on its device.

    Attributes:
        outputs_name: what a person calls the outputs, e.g. `Q-values`.
        head: of a network with several, the one that decides.
    """

    outputs_name: ClassVar[str]
    head: ClassVar[str] = ""

    def __init__(
        self,
        network: nn.Module,
        num_actions: int,
        *,
        epsilon: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        self.network = network
        self.num_actions = num_actions
        self.epsilon = epsilon
        self.generator = generator
        self._compiled = compiled(network)

    @abstractmethod
    def choose(self, outputs: Tensor, rng: np.random.Generator) -> IntArray:
        """Actions (N,) for the network's outputs (N, K)."""

    @torch.no_grad()
    def outputs(self, observations: npt.NDArray[Any], time_window: int | None = None) -> Tensor:
        """What the deciding head answers (N, K), in evaluation mode, on its own device.

        Args:
            observations: (N, *observation_shape), as the environment gives them.
            time_window: simulation steps T; None: the network's own.
        """
        if self._compiled is not None and self._compiled.attached:
            return torch.from_numpy(self._compiled.values(observations, time_window))
        device = next(self.network.parameters()).device
        inputs = torch.from_numpy(observations).to(device, non_blocking=True)
        if self.network.training:  # walking through all modules takes time at each decision
            self.network.eval()
        outputs = self.network(inputs, time_window=time_window, generator=self.generator)
        decisive: Tensor = outputs[self.head] if isinstance(outputs, dict) else outputs
        return decisive

    def act(
        self,
        observations: npt.NDArray[Any],
        rng: np.random.Generator,
        time_window: int | None = None,
        outputs: Tensor | None = None,
    ) -> Choice:
        """Decide for each of N observations on its own.

        The first two draws from `rng` are the same whatever epsilon is, so that the stream stays
        in step with the calls.

        Args:
            observations: (N, *observation_shape).
            rng: source of exploration, and of a policy that draws.
            time_window: simulation steps T; None: the network's own.
            outputs: (N, K) what the network answers, if that is known already.
        """
        # Drawn before it is known who explores: the stream is the same for every epsilon.
        explored = rng.random(len(observations)) < self.epsilon
        actions = rng.integers(self.num_actions, size=len(observations))
        # Early in training nearly every action is random, and a forward would be for nothing.
        if explored.all():
            return Choice(actions, explored, outputs)
        if outputs is None:
            outputs = self.outputs(observations, time_window)
        return Choice(np.where(explored, actions, self.choose(outputs, rng)), explored, outputs)


class Greedy(Policy):
    """The action of the largest value; of equal values the first. Outputs are (N, A) values."""

    outputs_name = "Q-values"

    def choose(self, outputs: Tensor, rng: np.random.Generator) -> IntArray:
        """Argmax of each row."""
        actions: IntArray = outputs.argmax(dim=1).cpu().numpy()
        return actions


class Sampled(Policy):
    """An action drawn with probability softmax(logits)[action]; outputs are (N, A) logits.

    Evaluation and play draw too: the policy whose return is learned is the one that is scored.
    """

    outputs_name, head = "logits", "policy"

    def choose(self, outputs: Tensor, rng: np.random.Generator) -> IntArray:
        """Argmax of logits + noise of the Gumbel distribution, which is such a draw."""
        logits = outputs.cpu().numpy()
        actions: IntArray = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
        return actions
