"""A real trainer that runs some steps at a time, so that several can take turns."""

import sys
from dataclasses import dataclass, replace
from typing import Any

from sdqn_lab import build
from sdqn_lab.agents.dqn import DQN
from sdqn_lab.agents.schedules import LinearSchedule
from sdqn_lab.benchmarks import arms
from sdqn_lab.benchmarks.arms import Kind
from sdqn_lab.tracking.recorder import Counters
from sdqn_lab.training.trainer import Settings, StopRequested, Trainer

NEVER = sys.maxsize
LATE_EPSILON = 0.05
"""Exploration of most of a long run: nearly every action asks the network."""


class Silence:
    """A recorder that keeps nothing."""

    def metrics(self, counters: Counters, frames: int, values: dict[str, Any]) -> None:
        """Drop a record."""

    def event(self, counters: Counters, frames: int, line: str) -> None:
        """Drop a line."""

    def progress(self, counters: Counters, values: dict[str, float]) -> None:
        """Drop a position."""


@dataclass(frozen=True)
class Plan:
    """What a session trains: an agent's form on a game.

    Attributes:
        kind: form of the agent.
        game: option of the group env.
        time_window: T.
        learn_every_steps: agent steps an update; None: never, and all actions are random.
        chunk_steps: agent steps of one call.
    """

    kind: Kind
    game: str
    time_window: int
    learn_every_steps: int | None
    chunk_steps: int


class Session:
    """Each call goes on for `chunk_steps` agent steps; no evaluation and no checkpoint between."""

    def __init__(self, plan: Plan, cfg: Any) -> None:
        self._chunk, self._until = plan.chunk_steps, cfg.algo.replay_start_steps
        agent = arms.agent(cfg, plan.kind, plan.game, plan.time_window)
        _set_rhythm(agent, plan)
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


def _set_rhythm(agent: DQN, plan: Plan) -> None:
    agent.iteration_steps = NEVER
    epsilon = LATE_EPSILON
    if plan.learn_every_steps is None:
        agent.replay_start_steps, epsilon = NEVER, 1.0
    else:
        agent.learn_every_steps = plan.learn_every_steps
    agent.epsilon = LinearSchedule(epsilon, epsilon, 1)
