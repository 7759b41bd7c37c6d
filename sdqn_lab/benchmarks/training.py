"""Environments, acting, the trainer and whole training, in milliseconds an agent step."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from sdqn_lab import build
from sdqn_lab.benchmarks import arms
from sdqn_lab.benchmarks.arms import Kind
from sdqn_lab.benchmarks.rows import Rival, Row, Setting, contest
from sdqn_lab.benchmarks.session import Plan, Session
from sdqn_lab.benchmarks.timing import Form, Watch, synchronized, wall
from sdqn_lab.envs.atari import Atari
from sdqn_lab.envs.base import VectorEnv
from sdqn_lab.envs.minatar import MinAtar

STEPS = 20
"""Vector steps in one call."""


def environment_rows(name: str, setting: Setting, game: str) -> list[Row]:
    """Our environment against the emulator in it, both under the same random actions."""
    env = _environment(setting, game)
    rivals = {"bare emulator": partial(bare_form, setting, game)}
    per = STEPS * env.num_envs
    return contest(name, _stepping(env, _play(env)), rivals, setting, per=per, watch=wall)


def acting_rows(name: str, setting: Setting, game: str, time_window: int) -> list[Row]:
    """The environment with greedy actions of PL-SDQN, against the environment alone."""
    env = _environment(setting, game)
    cfg = arms.composed(game, "fused", str(setting.device), setting.threads)
    agent = arms.agent(cfg, "fused", game, time_window)
    policy, rng = agent.policy(agent.network, arms.ACTIONS), np.random.default_rng(0)
    seen = env.reset(0)

    def act() -> None:
        nonlocal seen
        for _ in range(STEPS):
            seen = env.step(policy.act(seen, rng).actions).observations

    def alone() -> Form:
        other = _environment(setting, game)
        return _stepping(other, _play(other))

    per = STEPS * env.num_envs
    return contest(name, act, {"environment": alone}, setting, per=per, watch=_watch(setting))


def trainer_rows(name: str, setting: Setting, game: str, chunk_steps: int) -> list[Row]:
    """Random acting through collector, replay and records, against the bare emulator."""
    plan = Plan("fused", game, 1, None, chunk_steps)
    session = _session(setting, plan)
    num_envs = session.trainer.agent.num_envs
    bare = partial(bare_form, setting, game, chunk_steps // num_envs)
    rivals = {"bare emulator": bare}
    return contest(name, session, rivals, setting, per=chunk_steps, watch=wall)


def training_rows(name: str, setting: Setting, plan: Plan, rivals: tuple[Kind, ...]) -> list[Row]:
    """Whole training against the same with other forms of the agent."""
    forms: dict[str, Rival] = {
        kind: partial(_session, setting, replace(plan, kind=kind)) for kind in rivals
    }
    watch, per = _watch(setting), plan.chunk_steps
    rows = contest(name, _session(setting, plan), forms, setting, per=per, watch=watch)
    return [replace(row, more=_rates(row)) for row in rows]


def bare_form(setting: Setting, game: str, steps: int = STEPS) -> Form:
    """The emulator without our environment around it, under random actions."""
    env = _environment(setting, game)
    return _stepping(env, bare_step(env), steps)


def bare_step(env: VectorEnv) -> Callable[[np.ndarray[Any, Any]], object]:
    """A step of what an environment wraps.

    It reaches into the environment: so both have the same emulator with the same settings.
    """
    if isinstance(env, Atari):
        return env._emulators.step
    assert isinstance(env, MinAtar)
    games = [game._environment for game in env._games]  # type: ignore[attr-defined]

    def step(actions: np.ndarray[Any, Any]) -> None:
        for game, action in zip(games, actions.tolist(), strict=True):
            _, over = game.act(action)
            if over:
                game.reset()
            game.state()

    return step


def _play(env: VectorEnv) -> Callable[[np.ndarray[Any, Any]], object]:
    return env.step


def _environment(setting: Setting, game: str) -> VectorEnv:
    cfg = arms.composed(game, "fused", str(setting.device), setting.threads)
    env = build.build_env(cfg, cfg.algo.num_envs)
    env.reset(0)
    return env


def _stepping(
    env: VectorEnv, step: Callable[[np.ndarray[Any, Any]], object], steps: int = STEPS
) -> Form:
    """Steps under random actions that are drawn beforehand."""
    shape = (steps, env.num_envs)
    actions = np.random.default_rng(0).integers(env.num_actions, size=shape)

    def run() -> None:
        for row in actions:
            step(row)

    return run


def _session(setting: Setting, plan: Plan) -> Session:
    cfg = arms.composed(plan.game, plan.kind, str(setting.device), setting.threads)
    return Session(plan, cfg)


def _watch(setting: Setting) -> Watch:
    """Work of host and device in turn: the wall clock, around all of it."""
    return synchronized if setting.device.type == "cuda" else wall


def _rates(row: Row) -> dict[str, float | None]:
    return {
        "ours_steps_per_second": row.ours and 1e3 / row.ours.median,
        "against_steps_per_second": row.theirs and 1e3 / row.theirs.median,
    }
