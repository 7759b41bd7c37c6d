"""Episodes of a policy, each in an environment of its own, none preferred for being short."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sdqn_lab.agents.seeding import stream, stream_seed
from sdqn_lab.envs.base import VectorEnv

if TYPE_CHECKING:
    from sdqn_lab.agents.policy import Choice, Policy


class Evaluation(NamedTuple):
    """Unclipped returns and lengths (agent steps) of the episodes played."""

    returns: list[float]
    lengths_steps: list[int]


@dataclass(frozen=True)
class Start:
    """Where the random streams of an evaluation begin.

    Streams are its own, named by (seed, index): training is not touched, and the same start plays
    the same episodes.

    Attributes:
        seed: >= 0.
        index: running number of the evaluation.
    """

    seed: int
    index: int

    @property
    def env_seed(self) -> int:
        """Of the environment."""
        return stream_seed(self.seed, "evaluation/env", self.index)

    @property
    def encoder_seed(self) -> int:
        """Of a random encoder."""
        return stream_seed(self.seed, "evaluation/encoder", self.index)

    def exploration(self) -> np.random.Generator:
        """Source of random actions."""
        return stream(self.seed, "evaluation/explore", self.index)


class Moment(NamedTuple):
    """One decision of all episodes that are still running.

    Attributes:
        running: (N,) bool, which of the environment's copies.
        observations: (n, ...) of those.
        choice: what the policy decided for them.
        returns: (N,) unclipped, before the decision's reward.
    """

    running: npt.NDArray[np.bool_]
    observations: npt.NDArray[Any]
    choice: "Choice"
    returns: npt.NDArray[np.float64]


def evaluate(
    policy: "Policy",
    env: VectorEnv,
    start: Start,
    *,
    time_window: int | None = None,
    on_decision: Callable[[Moment], object] = lambda moment: None,
    stop_requested: Callable[[], bool] = lambda: False,
) -> Evaluation | None:
    """Play one episode in each of the environment's copies.

    Args:
        policy: acts; its generator is set to the start's stream.
        env: as many copies as episodes are wanted.
        start: where the random streams begin.
        time_window: T; None: the network's own.
        on_decision: sees each decision before it is carried out.
        stop_requested: asked before every step.

    Returns:
        What was played, or None where a stop was requested; begun again it plays the same episodes.
    """
    rng = start.exploration()
    if policy.generator is not None:
        policy.generator.manual_seed(start.encoder_seed)
    observations = env.reset(start.env_seed)
    returns = np.zeros(env.num_envs)
    lengths = np.zeros(env.num_envs, np.int64)
    running = np.ones(env.num_envs, bool)
    while running.any():
        if stop_requested():
            return None
        seen = observations[running]
        choice = policy.act(seen, rng, time_window)
        on_decision(Moment(running, seen, choice, returns))
        # Copies whose episode is over go on with action 0, and nothing of it is counted.
        decided = choice.actions
        actions = np.zeros((env.num_envs, *decided.shape[1:]), decided.dtype)
        actions[running] = decided
        step = env.step(actions)
        returns[running] += step.rewards[running]
        lengths[running] += 1
        running &= ~(step.terminated | step.truncated)
        observations = step.observations
    return Evaluation(returns.tolist(), lengths.tolist())
