"""The seam between algorithms and everything else: what the trainer knows of an agent.

An algorithm is one class here and one YAML file in `conf/algo`. It owns its network's training, its
memory, its exploration and the rhythm of its updates; the trainer owns environments, records,
evaluation and checkpoints.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from sdqn_lab.agents.returns import BoolArray
from sdqn_lab.checks.ranges import Count
from sdqn_lab.checks.refused import Refused
from sdqn_lab.envs.base import ActionBox, Actions, ActionSpace

if TYPE_CHECKING:
    from sdqn_lab.agents.policy import Policy
    from sdqn_lab.networks.network import SpikingNetwork
    from sdqn_lab.spiking.readout import Readout

Array = npt.NDArray[Any]
Arguments = Mapping[str, Any]
"""The keys of an `algo` option, which are the arguments of its class."""

MAX_MEMORY_SHARE = 0.9
"""Of the memory that is free, what an agent's memory may take."""


@dataclass(frozen=True)
class EnvSpec:
    """What an agent must know of its environment.

    Attributes:
        observation_shape: (C, H, W) or (F,).
        num_actions: A; of continuous actions how many numbers D make one.
        stack: consecutive frames along an observation's axis 0.
        dtype: of observations.
        action_box: what continuous actions lie in; None: they are numbers in [0, A).
    """

    observation_shape: tuple[int, ...]
    num_actions: int
    stack: int = 1
    dtype: torch.dtype = torch.uint8
    action_box: ActionBox | None = None

    @property
    def actions(self) -> ActionSpace:
        """What actions are, in one value."""
        return self.action_box or self.num_actions

    def no_actions(self, count: int) -> Actions:
        """Zeros in the form of `count` actions, for rows that are no transitions."""
        if self.action_box is None:
            return np.zeros(count, np.int64)
        return np.zeros((count, self.num_actions), np.float32)

    @property
    def frame_shape(self) -> tuple[int, ...]:
        """Shape of an observation's newest frame, which is all that a memory must keep per step."""
        return (self.observation_shape[0] // self.stack, *self.observation_shape[1:])


class Decision(NamedTuple):
    """What N environments are to do, and what acting computed that learning will need, by name.

    Attributes:
        actions: (N,) int64; (N, D) float32 where they are continuous, not clipped to their bounds.
        extras: each (N, ...).
    """

    actions: Actions
    extras: Mapping[str, Array]


class Row(NamedTuple):
    """One step of N environments as learning sees it.

    Attributes:
        observations: (N, *observation_shape) that were acted on.
        actions: (N,) integers, or (N, D) numbers as they were decided, not clipped.
        rewards: (N,) clipped if the protocol says so.
        terminal: (N,) no value is expected after this step (game over, or a life lost).
        valid: (N,) False for steps that ignored their action and only started a new episode.
    """

    observations: Array
    actions: Actions
    rewards: Array
    terminal: BoolArray
    valid: BoolArray


class Memory(Protocol):
    """Append-only rows, of which a checkpoint adds the new ones to its last."""

    capacity_rows: int
    rows_written: int

    @property
    def nbytes(self) -> int:
        """Bytes allocated for rows."""
        ...

    def export_rows(self, first: int, last: int) -> dict[str, Array]:
        """Copies of the absolute rows [first, last), each column (rows, ...)."""
        ...

    def import_rows(self, first: int, arrays: Mapping[str, Array]) -> None:
        """Write rows made by `export_rows` at their absolute place, the next to be written."""
        ...

    def check_valid(self) -> None:
        """Raise a ValueError if the stored rows contradict each other."""
        ...


class RunFacts(NamedTuple):
    """What an algorithm's own rules may ask of the run.

    Attributes:
        steps: agent steps of the whole run.
        env: the environment.
        free_bytes: memory free on the `cpu` and on the `device`; None: it runs on another machine.
        network: the network, weightless; None: it is not known.
    """

    steps: int
    env: EnvSpec
    free_bytes: Mapping[str, int] | None = None
    network: "SpikingNetwork | None" = None

    def too_large(self, key: str, count: int, what: str, needed: int, where: str) -> list[Refused]:
        """What is said of a memory that does not fit.

        Args:
            key: the argument to make smaller.
            count: its value, to which `needed` is proportional.
            what: the memory.
            needed: its bytes.
            where: `cpu` or `device`.
        """
        if self.free_bytes is None or needed <= MAX_MEMORY_SHARE * self.free_bytes[where]:
            return []
        free = self.free_bytes[where]
        rule = f"{what} needs {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free"
        return [
            Refused(key, count, rule, f"{int(count * MAX_MEMORY_SHARE * free / needed)} or less")
        ]


class Agent(ABC):
    """An algorithm: acts, remembers, learns.

    The trainer calls, for each step of N environments::

        decision = agent.act(observations, step)
        agent.observe(row, decision.extras)
        for metrics in agent.learn(step):
            norms = agent.gradient_norms()

    and `close` where all environments are about to start anew. The observation after a row is that
    of the next row, or the one given to `close`.

    Args:
        network: a `SpikingNetwork` with the heads that `heads` names, on the agent's device.
        env: the environment's shapes.
        seed: the run's; every random stream is named and derived from it.
        num_envs: environments N stepped together.
        iteration_steps: agent steps between evaluations; environments start anew at each.

    Attributes:
        reads: the kind of readout that its heads must be; None: any.
        learns_by_gradient: False where no gradient goes through the spikes; the network's health is
            then judged by the spikes.
        has_compiled_updates: whether `engines` can make them, for networks that it covers.
        parameter_copies: what training keeps for each parameter: itself, its gradient and two
            moments of the optimizer.
        continuous_head: the head whose outputs are the means of continuous actions; the network
            then answers the logarithms of their standard deviations behind them (see
            `SpikingNetwork`). None: it can only choose among finitely many.
        head_gains: by head, the factor of the orthogonal matrix that its linear map starts from;
            heads without one have torch's initialization.
        memory: rows for incremental checkpoints; None where all memory is in `state_dict`.
    """

    reads: ClassVar["type[Readout] | None"] = None
    learns_by_gradient: bool = True
    has_compiled_updates: ClassVar[bool] = False
    continuous_head: ClassVar[str | None] = None
    head_gains: ClassVar[Mapping[str, float]] = {}
    parameter_copies: ClassVar[int] = 4
    memory: Memory | None = None

    def __init__(
        self,
        network: nn.Module,
        env: EnvSpec,
        *,
        seed: int,
        num_envs: Count,
        iteration_steps: Count,
    ) -> None:
        self.network = cast("SpikingNetwork", network)
        self.env = env
        self.seed = seed
        self.num_envs = num_envs
        self.iteration_steps = iteration_steps

    @property
    def device(self) -> torch.device:
        """Device of the network."""
        return next(self.network.parameters()).device

    @abstractmethod
    def act(self, observations: Array, step: int) -> Decision:
        """Decide for observations (N, *observation_shape), exploring as of agent step `step`."""

    @abstractmethod
    def observe(self, row: Row, extras: Mapping[str, Array]) -> None:
        """Remember one step of all environments, and what acting computed for it."""

    @abstractmethod
    def learn(self, step: int) -> Iterator[Mapping[str, Tensor | float]]:
        """Make as many updates as are due at agent step `step`; metrics (0-d) after each."""

    @property
    def general_path(self) -> str | None:
        """Why updates are torch's and not compiled, in a few words; None: they are compiled."""
        return f"{type(self).__name__} has no compiled update"

    def gradient_norms(self) -> Mapping[str, Tensor | float]:
        """L2 norm of the last update's gradient of each layer (0-d), asked for after each update.

        Layers are named as `SpikingNetwork.layers` names them; those without a gradient are left
        out. An agent whose gradients do not lie in `network` answers from where they are.
        """
        return self.network.gradient_norms()

    def close(self, observations: Array) -> None:  # noqa: B027  (many have nothing to truncate)
        """All environments start anew: running episodes are truncated at these observations."""

    @abstractmethod
    def sample(self, rng: np.random.Generator) -> Tensor | None:
        """Remembered observations (B, ...) for statistics; None while there are too few."""

    def metrics(self, step: int) -> dict[str, float]:
        """What a record says of the agent beside its updates, e.g. epsilon."""
        return {}

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """All that the future depends on but the rows of `memory`.

        Tensors, arrays, numbers, strings and None in dictionaries, lists and tuples. A number of
        NumPy comes back as one of Python, a named tuple as a list.
        """

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the state of an agent built alike; `memory` was restored before."""

    @staticmethod
    @abstractmethod
    def heads(num_actions: int, arguments: Arguments) -> dict[str, int]:
        """What the network must end in: the width of each head by its name.

        Args:
            num_actions: A, or D where actions are continuous.
            arguments: of the algorithm.
        """

    @staticmethod
    def own_torsos(arguments: Arguments) -> tuple[str, ...]:
        """Heads that read a torso of their own; the others share one."""
        return ()

    @staticmethod
    @abstractmethod
    def policy(
        network: nn.Module,
        actions: ActionSpace,
        *,
        epsilon: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> "Policy":
        """How a trained network of this algorithm acts in evaluation and play."""

    @staticmethod
    def problems(arguments: Arguments, run: RunFacts) -> list[Refused]:
        """Arguments that do not fit each other or the run, by full keys such as `algo.gamma`.

        Each is in its own range already.
        """
        return []

    @staticmethod
    def memory_bytes(arguments: Arguments, env: EnvSpec) -> int:
        """Bytes that the memory of an agent with these arguments allocates."""
        return 0

    @staticmethod
    def updates_made(arguments: Arguments, steps: int) -> int:
        """Updates that a run of so many agent steps makes, for estimates."""
        return 0
