"""Evaluation: every episode in an environment of its own, none preferred for being short."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from sdqn_lab.agents.dqn import DQN
from sdqn_lab.envs.base import VectorEnv
from sdqn_lab.training.seeding import stream, stream_seed


class Evaluation(NamedTuple):
    """Unclipped returns and lengths (agent steps) of the episodes played."""

    returns: list[float]
    lengths_steps: list[int]


def evaluate(
    agent: DQN,
    env: VectorEnv,
    *,
    seed: int,
    index: int,
    epsilon: float,
    time_window: int | None = None,
    stop_requested: Callable[[], bool] = lambda: False,
) -> Evaluation | None:
    """Play one episode in each of the environment's copies.

    Training is not touched: exploration, environments and encoder draw from streams of their own,
    named by (seed, index).

    Args:
        agent: acts epsilon-greedily.
        env: as many copies as episodes are wanted.
        seed: the run's seed.
        index: running number of the evaluation.
        epsilon: share of random actions, in [0, 1].
        time_window: T; None: the network's own.
        stop_requested: asked before every step.

    Returns:
        What was played, or None where a stop was requested; begun again it plays the same episodes.
    """
    rng = stream(seed, "evaluation/explore", index)
    observations = env.reset(stream_seed(seed, "evaluation/env", index))
    returns = np.zeros(env.num_envs)
    lengths = np.zeros(env.num_envs, np.int64)
    playing = np.ones(env.num_envs, bool)
    with own_encoder_stream(agent, stream_seed(seed, "evaluation/encoder", index)):
        while playing.any():
            if stop_requested():
                return None
            actions = np.zeros(env.num_envs, np.int64)
            actions[playing] = agent.act(observations[playing], epsilon, rng, time_window)
            step = env.step(actions)
            returns[playing] += step.rewards[playing]
            lengths[playing] += 1
            playing &= ~(step.terminated | step.truncated)
            observations = step.observations
    return Evaluation(returns.tolist(), lengths.tolist())


@contextmanager
def own_encoder_stream(agent: DQN, seed: int) -> Iterator[None]:
    """Let the agent's encoder draw from another stream, and put its own back."""
    generator = agent.generator
    if generator is None:
        yield
        return
    state = generator.get_state()
    generator.manual_seed(seed)
    try:
        yield
    finally:
        generator.set_state(state)
