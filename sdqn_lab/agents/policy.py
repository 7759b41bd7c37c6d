"""Acting with a network: one class for evaluation, play and `sdqn_lab.load`."""

from abc import ABC, abstractmethod
from functools import partial
from typing import Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from sdqn_lab.agents.returns import BoolArray, IntArray
from sdqn_lab.engines.cuda_graph import CudaGraph, graph_obstacle
from sdqn_lab.engines.network import compiled
from sdqn_lab.envs.base import ActionBox, Actions, ActionSpace, random_actions


class Choice(NamedTuple):
    """What a policy decided for N observations.

    Attributes:
        actions: (N,) int64, or (N, D) float32 where they are continuous.
        explored: (N,) whether the action was drawn uniformly at random.
        outputs: (N, K) what the network answered, on its device; None where every action was
            random and the network was therefore not asked.
    """

    actions: Actions
    explored: BoolArray
    outputs: Tensor | None


class Policy(ABC):
    """A rule from the network's outputs to actions, mixed with uniformly random actions.

    Args:
        network: called as network(observations, time_window=..., generator=...) -> (N, K), or with
            several heads a dictionary of such outputs.
        actions: how many there are, or what continuous ones lie in.
        epsilon: probability of a uniformly random action, in [0, 1].
        generator: random source of a network that draws (Poisson encoder), on its device.

    Attributes:
        outputs_name: what a person calls the outputs, e.g. `Q-values`.
        head: of a network with several, the one that decides.
        num_actions: A, or how many numbers D make one action.
    """

    outputs_name: ClassVar[str]
    head: ClassVar[str] = ""

    def __init__(
        self,
        network: nn.Module,
        actions: ActionSpace,
        *,
        epsilon: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        self.network = network
        self.actions = actions
        self.num_actions = actions if isinstance(actions, int) else actions.size
        self.epsilon = epsilon
        self.generator = generator
        self._compiled = compiled(network)
        self._can_graph = graph_obstacle(network) is None
        self._graphs: dict[int | None, CudaGraph[Tensor]] = {}

    @abstractmethod
    def choose(self, outputs: Tensor, rng: np.random.Generator) -> Actions:
        """Actions, (N,) or (N, D), for the network's outputs (N, K)."""

    def values(self, outputs: Tensor) -> Tensor:
        """A number for each action (N, A), or each of D, out of the network's outputs (N, K)."""
        return outputs

    def quantiles(self, outputs: Tensor) -> Tensor | None:
        """Quantiles of each action's return (N, A, M), where the outputs (N, K) hold any."""
        return None

    @torch.no_grad()
    def outputs(self, observations: npt.NDArray[Any], time_window: int | None = None) -> Tensor:
        """What the deciding head answers (N, K), in evaluation mode, on its own device.

        Args:
            observations: (N, *observation_shape), as the environment gives them.
            time_window: simulation steps T; None: the network's own.
        """
        if self._compiled is not None and self._compiled.attached:
            answers = torch.from_numpy(self._compiled.values(observations, time_window))
            by_head = self._compiled.by_head(answers)
            return by_head[self.head] if len(by_head) > 1 else next(iter(by_head.values()))
        if self.network.training:  # walking through all modules takes time at each decision
            self.network.eval()
        inputs = torch.from_numpy(observations)
        if not self._can_graph:
            device = next(self.network.parameters()).device
            return self._decisive(inputs.to(device, non_blocking=True), time_window)
        if time_window not in self._graphs:
            answer = partial(self._decisive, time_window=time_window)
            self._graphs[time_window] = CudaGraph(answer, self.network)
        # A copy, because the next decision writes over what a graph answers.
        return self._graphs[time_window](inputs).clone()

    def _decisive(self, inputs: Tensor, time_window: int | None) -> Tensor:
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
        actions = random_actions(self.actions, len(observations), rng)
        # Early in training nearly every action is random, and a forward would be for nothing.
        if explored.all():
            return Choice(actions, explored, outputs)
        if outputs is None:
            outputs = self.outputs(observations, time_window)
        chosen = self.choose(outputs, rng)
        of_each = explored if chosen.ndim == 1 else explored[:, np.newaxis]
        return Choice(np.where(of_each, actions, chosen), explored, outputs)


class Greedy(Policy):
    """The action of the largest value; of equal values the first. Outputs are (N, A) values."""

    outputs_name = "Q-values"

    def choose(self, outputs: Tensor, rng: np.random.Generator) -> IntArray:
        """Argmax of each row of values."""
        actions: IntArray = self.values(outputs).argmax(dim=1).cpu().numpy()
        return actions


class MostSpikes(Policy):
    """The action whose neurons fired most; one of those that tie, at random.

    Outputs are (N, A) firing rates.
    """

    outputs_name = "firing rates"

    def choose(self, outputs: Tensor, rng: np.random.Generator) -> IntArray:
        """One of the largest of each row, drawn from `rng`."""
        rates = outputs.cpu().numpy()
        most = rates == rates.max(axis=1, keepdims=True)
        actions: IntArray = (most * (1 + rng.random(rates.shape))).argmax(axis=1)
        return actions


class GreedyInMean(Greedy):
    """The action whose quantiles have the largest mean, which is its value.

    Outputs are (N, A * M): the M quantiles of the first action, then those of the second, ...
    """

    outputs_name = "Q-values, line: middle 80%"

    def quantiles(self, outputs: Tensor) -> Tensor:
        """Outputs (N, A * M) as (N, A, M)."""
        return outputs.view(len(outputs), self.num_actions, -1)

    def values(self, outputs: Tensor) -> Tensor:
        """Mean over quantiles; (N, A * M) to (N, A)."""
        return self.quantiles(outputs).mean(2)


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


class Gaussian(Policy):
    """Continuous actions, each number of them drawn from a normal distribution of its own::

        a_d = mean_d + exp(log_std_d) noise_d

    They may lie beyond their bounds: an environment plays the bound then, and learning takes them
    as they were drawn. Outputs are (N, 2D), the means and then the logarithms of the standard
    deviations, as `SpikingNetwork` answers them.
    """

    outputs_name, head = "mean action", "policy"

    def values(self, outputs: Tensor) -> Tensor:
        """The means (N, D) out of (N, 2D)."""
        return outputs[:, : self.num_actions]

    def choose(self, outputs: Tensor, rng: np.random.Generator) -> Actions:
        """Draws (N, D)."""
        mean, log_std = outputs.cpu().chunk(2, dim=1)
        noise = rng.standard_normal(mean.shape).astype(np.float32)
        drawn: Actions = (mean + log_std.exp() * torch.from_numpy(noise)).numpy()
        return drawn


class Mean(Gaussian):
    """The mean of the distribution that training draws from, clipped to the actions' bounds.

    Outputs as `Gaussian`.
    """

    def choose(self, outputs: Tensor, rng: np.random.Generator) -> Actions:
        """Means (N, D); nothing is drawn."""
        assert isinstance(self.actions, ActionBox)
        return self.actions.clip(self.values(outputs).cpu().numpy())
