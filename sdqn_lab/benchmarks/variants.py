"""The agents that are compared, built from the project's own configs, and trainers for them."""

import sys
from dataclasses import replace
from functools import cache
from typing import Literal, NamedTuple

import torch
from omegaconf import DictConfig

from sdqn_lab.agents.base import EnvSpec
from sdqn_lab.agents.q_agent import QAgent
from sdqn_lab.agents.schedules import LinearSchedule
from sdqn_lab.assembly import build
from sdqn_lab.benchmarks.peers import spikingjelly_network
from sdqn_lab.benchmarks.rows import Setting
from sdqn_lab.benchmarks.stepwise import StepByStep
from sdqn_lab.training.trainer import Settings, StopRequested, Trainer

ATARI, MINATAR = "pong", "minatar_breakout"
SHAPES = {ATARI: (4, 84, 84), MINATAR: (4, 10, 10)}
ACTIONS = 6
"""Of both games."""
Kind = Literal["auto", "fused", "bf16", "reference", "step-by-step", "spikingjelly", "ann"]
"""Ways to compute the same arm: the backends, maps that round to bf16, other people's ways, and the
ANN baseline, which has the same sizes and is a target, not an equal."""
BASELINES = {"pl_sdqn": "dqn", "pl_pqn": "pqn"}

REPLAY_STEPS = 20_000
REPLAY_START_STEPS = 320
NEVER = sys.maxsize
# Exploration of most of a long run: nearly every action asks the network.
LATE_EPSILON = 0.05


class Variant(NamedTuple):
    """An arm on a game: the option of the group env, T, the experiment, and how it is computed."""

    game: str
    time_window: int
    experiment: str = "pl_sdqn"
    kind: Kind = "auto"

    @property
    def label(self) -> str:
        """What the names of rows call it."""
        family = "atari" if self.game == ATARI else "minatar"
        time = f"/T={self.time_window}" if self.experiment in BASELINES else ""
        return f"{family}/{self.experiment}{time}"

    def kinds(self, device: torch.device) -> tuple[Kind, ...]:
        """What it is compared with on a device."""
        if self.experiment not in BASELINES:
            return ("fused",)
        # On a CPU there is no compiled update of the network for Atari: `auto` is `fused` there.
        same = self.game == ATARI and device.type == "cpu"
        plain: Kind = "reference" if same else "fused"
        return (plain, "step-by-step", "spikingjelly", "ann")


@cache
def composed(setting: Setting, variant: Variant) -> DictConfig:
    """The config of an arm on a game, with a replay that fits everywhere."""
    kind, experiment = variant.kind, variant.experiment
    foreign = kind in ("step-by-step", "spikingjelly")
    overrides = [
        f"env={variant.game}",
        f"experiment={BASELINES[experiment] if kind == 'ann' else experiment}",
        f"time_window={variant.time_window}",
        "tracker=none",
        f"backend={'fused' if foreign else kind if kind in ('fused', 'reference') else 'auto'}",
        f"precision={'bf16' if kind == 'bf16' else 'float32'}",
        f"device={setting.device}",
        f"threads={setting.threads}",
    ]
    if not experiment.endswith("pqn"):
        overrides += [
            f"algo.replay_device={'device' if setting.device.type == 'cuda' else 'cpu'}",
            f"algo.replay_capacity_steps={REPLAY_STEPS}",
            f"algo.replay_start_steps={REPLAY_START_STEPS}",
        ]
    return setting.compose(overrides)


class Rhythm(NamedTuple):
    """How an arm learns.

    Attributes:
        batch: samples of an update.
        forwards: forward passes of an update, those of all its networks together.
        updates_per_step: by agent step.
        chunk_steps: agent steps that it trains before it is another's turn.
    """

    batch: int
    forwards: int
    updates_per_step: float
    chunk_steps: int


def rhythm(cfg: DictConfig) -> Rhythm:
    """That of a config's algorithm."""
    algo = cfg.algo
    if "rollout_steps" in algo:
        steps = algo.num_envs * algo.rollout_steps
        updates = algo.epochs * algo.minibatches
        return Rhythm(steps // algo.minibatches, 1, updates / steps, steps)
    chunk = 20 if cfg.env.family == "atari" else 200
    return Rhythm(algo.batch_size, 3 if algo.double else 2, 1 / algo.learn_every_steps, chunk)


def env_spec(game: str) -> EnvSpec:
    """What agents must know of a game."""
    return EnvSpec(SHAPES[game], ACTIONS, stack=SHAPES[game][0] if game == ATARI else 1)


def built_agent(setting: Setting, variant: Variant) -> QAgent:
    """An agent; all variants of one config start with the same weights.

    Raises:
        ImportError: it needs a library that is not installed.
    """
    cfg, spec = composed(setting, variant), env_spec(variant.game)
    network = build.initial_network(cfg, spec)
    if variant.kind == "spikingjelly":
        network = spikingjelly_network(network)
    elif variant.kind == "step-by-step":
        network = StepByStep.of(network)
    # Only now, so that acting, target and optimizer are all of this form.
    agent = build.agent_class(cfg)(network, spec, seed=cfg.seed, **build.algo_arguments(cfg))
    assert isinstance(agent, QAgent)
    return agent


class Silence:
    """A recorder that keeps nothing."""

    def metrics(self, *_: object, **__: object) -> None:
        """Drop it."""

    event = progress = metrics


class Session:
    """A real trainer that runs some steps at a time, so that several can take turns.

    Each call goes on for `Rhythm.chunk_steps`; no evaluation and no checkpoint between.

    Args:
        setting: device and threads.
        variant: the arm.
    """

    def __init__(self, setting: Setting, variant: Variant) -> None:
        cfg = composed(setting, variant)
        self._chunk = rhythm(cfg).chunk_steps
        self._until = cfg.algo.get("replay_start_steps", self._chunk)
        agent = built_agent(setting, variant)
        # An iteration's end would put an evaluation into the measurement.
        agent.iteration_steps = NEVER
        agent.epsilon = LinearSchedule(LATE_EPSILON, LATE_EPSILON, 1)
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
