"""The agents that are compared, built from the project's own configs."""

from functools import cache
from typing import Any, Literal

import numpy as np
import torch

from sdqn_lab import build, config
from sdqn_lab.agents.base import EnvSpec
from sdqn_lab.agents.dqn import DQN
from sdqn_lab.agents.replay import Replay
from sdqn_lab.benchmarks.peers import spikingjelly_network
from sdqn_lab.benchmarks.stepwise import StepByStep
from sdqn_lab.networks.network import SpikingNetwork
from sdqn_lab.spiking.neuron import Backend, Neuron

Kind = Literal["fused", "bf16", "reference", "step-by-step", "spikingjelly", "dqn"]
"""Forms of the same agent; bf16 rounds its maps, dqn is its artificial twin."""
RIVALS: tuple[Kind, ...] = ("step-by-step", "reference", "spikingjelly", "dqn")

SHAPES = {"pong": (4, 84, 84), "minatar_breakout": (4, 10, 10)}
ACTIONS = 6
"""Of both games."""
REPLAY_STEPS = 20_000
FILLED_ROWS = 256


@cache
def composed(game: str, kind: Kind, device: str, threads: int) -> Any:
    """The config of one form: PL-SDQN or the DQN on a game, with a replay that fits everywhere."""
    experiment = "dqn" if kind == "dqn" else "pl_sdqn"
    precision = "bf16" if kind == "bf16" else "float32"
    place = "device" if torch.device(device).type == "cuda" else "cpu"
    return config.compose(
        [
            *(f"env={game}", f"experiment={experiment}", "tracker=none"),
            *(
                f"precision={precision}",
                f"device={device}",
                f"threads={threads}",
                f"algo.replay_device={place}",
            ),
            *(f"algo.replay_capacity_steps={REPLAY_STEPS}", "algo.replay_start_steps=320"),
        ]
    )


def agent(cfg: Any, kind: Kind, game: str, time_window: int) -> DQN:
    """An agent of this form; all forms of one config start with the same weights.

    Raises:
        ImportError: the form needs a library that is not installed.
    """
    made = build.build_agent(cfg, env_spec(game))
    assert isinstance(made, DQN)
    made.network = _formed(made.network, kind, time_window)
    made.target_network = _formed(made.target_network, kind, time_window)
    return made


def env_spec(game: str) -> EnvSpec:
    """What agents must know of a game."""
    return EnvSpec(SHAPES[game], ACTIONS, stack=SHAPES[game][0] if game == "pong" else 1)


def network(kind: Kind, game: str, time_window: int, device: torch.device) -> SpikingNetwork:
    """The online network of such an agent."""
    return agent(composed(game, kind, str(device), 1), kind, game, time_window).network


def _formed(made: torch.nn.Module, kind: Kind, time_window: int) -> SpikingNetwork:
    assert isinstance(made, SpikingNetwork)
    made.time_window = time_window
    if kind == "spikingjelly":
        return spikingjelly_network(made)
    if kind == "step-by-step":
        return StepByStep.of(made)
    set_backend(made, "reference" if kind == "reference" else "auto")
    return made


def set_backend(made: torch.nn.Module, backend: Backend) -> None:
    """Choose the neurons' backend."""
    for module in made.modules():
        if isinstance(module, Neuron):
            module.backend = backend


def filled_replay(cfg: Any, game: str, rng: np.random.Generator) -> Replay:
    """A replay with random frames, actions and rewards, enough for any batch here."""
    spec, envs = env_spec(game), cfg.algo.num_envs
    shape = spec.frame_shape
    place = build.resolve_device(cfg.device) if cfg.algo.replay_device == "device" else "cpu"
    replay = Replay(REPLAY_STEPS, envs, shape, spec.stack, device=place)
    high = 256 if game == "pong" else 2
    for _ in range(FILLED_ROWS):
        append_row(replay, rng.integers(high, size=(envs, *shape), dtype=np.uint8), rng)
    return replay


def append_row(
    replay: Replay,
    frames: np.ndarray[tuple[int, ...], np.dtype[np.uint8]],
    rng: np.random.Generator,
) -> None:
    """Add one step of all environments in which no episode ends."""
    envs = replay.num_envs
    replay.append(
        frames,
        rng.integers(ACTIONS, size=envs),
        rng.standard_normal(envs),
        terminal=np.zeros(envs, np.bool_),
        valid=np.ones(envs, np.bool_),
    )
