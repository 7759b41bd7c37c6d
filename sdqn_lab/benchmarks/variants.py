"""The agents that are compared, built from the project's own configs, and trainers for them."""

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import Literal, NamedTuple

import numpy as np
import torch
from omegaconf import DictConfig

from sdqn_lab.agents.base import EnvSpec
from sdqn_lab.agents.dqn import DQN
from sdqn_lab.agents.replay import Replay
from sdqn_lab.agents.schedules import LinearSchedule
from sdqn_lab.assembly import build
from sdqn_lab.benchmarks.peers import spikingjelly_network
from sdqn_lab.benchmarks.rows import Competitor, Setting
from sdqn_lab.benchmarks.stepwise import StepByStep
from sdqn_lab.benchmarks.timing import Workload
from sdqn_lab.networks.network import SpikingNetwork
from sdqn_lab.spiking.neuron import Neuron
from sdqn_lab.training.trainer import Settings, StopRequested, Trainer

Frames = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
ATARI, MINATAR = "pong", "minatar_breakout"
SHAPES = {ATARI: (4, 84, 84), MINATAR: (4, 10, 10)}
ACTIONS = 6
"""Of both games."""
Kind = Literal["fused", "bf16", "reference", "step-by-step", "spikingjelly", "dqn"]
"""Ways to compute the same agent; bf16 rounds its maps, dqn is its ANN baseline."""
COMPETITORS: tuple[Kind, ...] = ("step-by-step", "reference", "spikingjelly", "dqn")

STEPS = 160
"""Agent steps in one call, with 8 or 10 environments."""
REPLAY_STEPS = 20_000
FILLED_ROWS = 256
NEVER = sys.maxsize
# Exploration of most of a long run: nearly every action asks the network.
LATE_EPSILON = 0.05


class Variant(NamedTuple):
    """An agent on a game: the option of the group env, T, and how it is computed."""

    game: str
    time_window: int
    kind: Kind = "fused"


@cache
def composed(setting: Setting, variant: Variant) -> DictConfig:
    """The config of PL-SDQN or the DQN on a game, with a replay that fits everywhere."""
    return setting.compose(
        [
            f"env={variant.game}",
            f"experiment={'dqn' if variant.kind == 'dqn' else 'pl_sdqn'}",
            "tracker=none",
            f"precision={'bf16' if variant.kind == 'bf16' else 'float32'}",
            f"device={setting.device}",
            f"threads={setting.threads}",
            f"algo.replay_device={'device' if setting.device.type == 'cuda' else 'cpu'}",
            f"algo.replay_capacity_steps={REPLAY_STEPS}",
            "algo.replay_start_steps=320",
        ]
    )


def env_spec(game: str) -> EnvSpec:
    """What agents must know of a game."""
    return EnvSpec(SHAPES[game], ACTIONS, stack=SHAPES[game][0] if game == ATARI else 1)


def built_agent(setting: Setting, variant: Variant) -> DQN:
    """An agent; all variants of one config start with the same weights.

    Raises:
        ImportError: it needs a library that is not installed.
    """

    def formed(network: torch.nn.Module) -> SpikingNetwork:
        assert isinstance(network, SpikingNetwork)
        network.time_window = variant.time_window
        if variant.kind == "spikingjelly":
            return spikingjelly_network(network)
        if variant.kind == "step-by-step":
            return StepByStep.of(network)
        for module in network.modules():
            if isinstance(module, Neuron):
                module.backend = "reference" if variant.kind == "reference" else "auto"
        return network

    agent = build.build_agent(composed(setting, variant), env_spec(variant.game))
    assert isinstance(agent, DQN)
    # Every form keeps the parameters as they are: the optimizer holds these already.
    agent.network = formed(agent.network)
    agent.target_network = formed(agent.target_network)
    return agent


def filled_replay(agent: DQN, game: str, rng: np.random.Generator) -> Replay:
    """An agent's memory with random frames, actions and rewards, enough for any batch here."""
    high = 256 if game == ATARI else 2
    shape = (agent.num_envs, *env_spec(game).frame_shape)
    for _ in range(FILLED_ROWS):
        append_row(agent.memory, rng.integers(high, size=shape, dtype=np.uint8), rng)
    return agent.memory


def append_row(replay: Replay, frames: Frames, rng: np.random.Generator) -> None:
    """Add one step of all environments in which no episode ends."""
    envs = replay.num_envs
    actions, rewards = rng.integers(ACTIONS, size=envs), rng.standard_normal(envs)
    ends, valid = np.zeros(envs, np.bool_), np.ones(envs, np.bool_)
    replay.append(frames, actions, rewards, terminal=ends, valid=valid)


def update(setting: Setting, variant: Variant, batch: int) -> Workload:
    """One update of a fresh agent at each call."""
    algo, rng = composed(setting, variant).algo, np.random.default_rng(0)
    agent = built_agent(setting, variant)
    replay = filled_replay(agent, variant.game, rng)
    return lambda: agent.update(replay.sample(batch, algo.n_step, algo.gamma, rng))


def decision(setting: Setting, variant: Variant, batch: int) -> Workload:
    """Observations in host memory to greedy actions in host memory."""
    agent, rng = built_agent(setting, variant), np.random.default_rng(0)
    observations = rng.integers(256, size=(batch, *SHAPES[variant.game]), dtype=np.uint8)
    policy = agent.policy(agent.network, ACTIONS)
    return lambda: policy.act(observations, rng)


def others(
    build: Callable[..., Workload],
    kinds: tuple[Kind, ...],
    setting: Setting,
    variant: Variant,
    *numbers: int,
) -> dict[str, Competitor]:
    """The same workload for other kinds of the agent."""
    return {kind: partial(build, setting, variant._replace(kind=kind), *numbers) for kind in kinds}


class Silence:
    """A recorder that keeps nothing."""

    def metrics(self, *_: object, **__: object) -> None:
        """Drop it."""

    event = progress = metrics


class Session:
    """A real trainer that runs some steps at a time, so that several can take turns.

    Each call goes on for `chunk_steps` agent steps; no evaluation and no checkpoint between.

    Args:
        setting: device and threads.
        variant: the agent.
        learn_every_steps: agent steps per update; None: never, and all actions are random.
        chunk_steps: agent steps of one call.
    """

    def __init__(
        self, setting: Setting, variant: Variant, learn_every_steps: int | None, chunk_steps: int
    ) -> None:
        cfg = composed(setting, variant)
        self._chunk, self._until = chunk_steps, cfg.algo.replay_start_steps
        agent = built_agent(setting, variant)
        # An iteration's end would put an evaluation into the measurement.
        agent.iteration_steps, epsilon = NEVER, LATE_EPSILON
        if learn_every_steps is None:
            agent.replay_start_steps, epsilon = NEVER, 1.0
        else:
            agent.learn_every_steps = learn_every_steps
        agent.epsilon = LinearSchedule(epsilon, epsilon, 1)
        self.trainer = Trainer(
            replace(Settings.of(cfg), steps=NEVER),
            agent,
            env := build.build_env(cfg, cfg.algo.num_envs),
            env,
            Silence(),
            save=lambda trainer: None,
            stop_requested=lambda: self.trainer.counters.steps >= self._until,
        )

    def __call__(self) -> None:
        """Go on; the first call also takes the steps before the first update."""
        self._until += self._chunk
        try:
            self.trainer.run()
        except StopRequested:
            return
        raise RuntimeError("a session never ends by itself")
