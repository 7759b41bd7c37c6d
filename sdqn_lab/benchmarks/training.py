"""Environments, acting and whole training, in milliseconds per agent step; cells side by side."""

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from threading import Barrier
from typing import Any

import numpy as np
import torch

from sdqn_lab.assembly import build
from sdqn_lab.benchmarks import variants
from sdqn_lab.benchmarks.rows import Benchmark, Competitor, Row, Setting, compare
from sdqn_lab.benchmarks.timing import Spread, Workload
from sdqn_lab.benchmarks.variants import ATARI, COMPETITORS, MINATAR, STEPS, Session, Variant
from sdqn_lab.envs.atari import Atari
from sdqn_lab.envs.base import VectorEnv
from sdqn_lab.envs.minatar import MinAtar

Actions = np.ndarray[Any, Any]
TRAINER_STEPS = 1_000
FAMILIES = (("atari", Variant(ATARI, 16), 20), ("minatar", Variant(MINATAR, 8), 200))
"""Each with its agent, and the agent steps that one trains before it is another's turn."""
CELLS = (1, 2, 4, 8)
CELL_CHUNK_STEPS = 200


def benchmarks(setting: Setting) -> Iterator[Benchmark]:
    """All of this module; several cells at once on GPUs alone."""
    for family, variant, chunk in FAMILIES:
        steps, kinds = variant.time_window, COMPETITORS[::3] if setting.quick else COMPETITORS
        env, bare = (partial(stepping, setting, variant, bare=bare) for bare in (False, True))
        act, alone = partial(acting, setting, variant), {"environment": env}
        trainer = partial(Session, setting, variant._replace(time_window=1), None, TRAINER_STEPS)
        long = {"bare emulator": partial(bare, TRAINER_STEPS)}
        yield Benchmark(
            f"environment/{family}", setting, compare, env, {"bare emulator": bare}, STEPS
        )
        yield Benchmark(f"acting/{family}/T={steps}", setting, compare, act, alone, STEPS)
        yield Benchmark(f"trainer/{family}", setting, compare, trainer, long, TRAINER_STEPS)
        for every in (10, 4):
            stem = f"training/{family}/T={steps}/every={every}"
            ours = partial(Session, setting, variant, every, chunk)
            others = variants.others(Session, kinds, setting, variant, every, chunk)
            yield Benchmark(stem, setting, training_rows, ours, others, chunk)
    for family, variant, _ in FAMILIES if setting.device.type == "cuda" else ():
        stem = f"cells/{family}/T={variant.time_window}/every=10"
        yield Benchmark(stem, setting, cells_rows, variant, 10)


def training_rows(
    name: str, setting: Setting, ours: Competitor, others: Mapping[str, Competitor], per: int
) -> list[Row]:
    """`compare`, with the steps per second that people ask for."""

    def rates(row: Row) -> dict[str, float | None]:
        return {
            "ours_steps_per_second": 1e3 / row.ours.median,
            "against_steps_per_second": row.theirs and 1e3 / row.theirs.median,
        }

    return [replace(row, more=rates(row)) for row in compare(name, setting, ours, others, per)]


def environment(setting: Setting, variant: Variant) -> VectorEnv:
    """As many environments as the variant's algorithm asks for, begun."""
    cfg = variants.composed(setting, variant)
    env = build.build_env(cfg, cfg.algo.num_envs)
    env.reset(0)
    return env


def acting(setting: Setting, variant: Variant) -> Workload:
    """Environments with the greedy actions of an agent."""
    env, agent = environment(setting, variant), variants.built_agent(setting, variant)
    policy, rng = agent.policy(agent.network, env.num_actions), np.random.default_rng(0)
    seen = env.reset(0)

    def run() -> None:
        nonlocal seen
        for _ in range(STEPS // env.num_envs):
            seen = env.step(policy.act(seen, rng).actions).observations

    return run


def stepping(
    setting: Setting, variant: Variant, steps: int = STEPS, *, bare: bool = False
) -> Workload:
    """Environments under random actions that are drawn beforehand.

    Args:
        setting: threads.
        variant: the game.
        steps: agent steps of one call.
        bare: whether to step the emulators without our environment, through which they are reached.
    """
    env = environment(setting, variant)
    shape = (steps // env.num_envs, env.num_envs)
    actions = np.random.default_rng(0).integers(env.num_actions, size=shape)
    step: Callable[[Actions], object] = env.step
    if bare:
        step = env._emulators.step if isinstance(env, Atari) else partial(play, env)

    def run() -> None:
        for row in actions:
            step(row)

    return run


def play(env: VectorEnv, actions: Actions) -> None:
    """One step of MinAtar's own games."""
    assert isinstance(env, MinAtar)
    for wrapped, action in zip(env._games, actions.tolist(), strict=True):
        game = wrapped._environment  # type: ignore[attr-defined]
        _, over = game.act(action)
        if over:
            game.reset()
        game.state()


def cells_rows(
    name: str,
    setting: Setting,
    variant: Variant,
    learn_every_steps: int,
    counts: tuple[int, ...] = CELLS,
    seconds: float | None = None,
) -> list[Row]:
    """Milliseconds per step of several cells together, each a process as in a sweep.

    They share the threads and train for `seconds`; the first of `counts` is what others are
    compared with.
    """
    # Spawned: CUDA does not survive a fork, and a sweep starts its cells anew too.
    seconds, context = seconds or (5.0 if setting.quick else 30.0), get_context("spawn")
    rows: list[Row] = []
    for count in counts:
        share = replace(setting, threads=max(1, setting.threads // count))
        with context.Manager() as manager, ProcessPoolExecutor(count, context) as pool:
            warm = manager.Barrier(count)
            arguments = share, variant, learn_every_steps, seconds, warm
            cells = [pool.submit(cell_speed, *arguments) for _ in range(count)]
            # The first that completes may have failed; the others then meet a broken barrier.
            total = sum(cell.result() for cell in as_completed(cells))
        ours, more = Spread(*[1e3 / total] * 3), {"ours_steps_per_second": total}
        first = rows[0].ours if rows else ours
        rows.append(Row(f"{name}/cells={count}", ours, f"cells={counts[0]}", first, more=more))
    return rows


def cell_speed(
    setting: Setting, variant: Variant, learn_every_steps: int, seconds: float, warm: Barrier
) -> float:
    """Steps per second of one cell, which waits for the others before it begins."""
    torch.set_num_threads(setting.threads)
    try:
        session = Session(setting, variant, learn_every_steps, CELL_CHUNK_STEPS)
        session()
    except BaseException:
        # Else the others would wait at the barrier for ever.
        warm.abort()
        raise
    warm.wait()
    first, begin = session.trainer.counters.steps, time.perf_counter()
    while time.perf_counter() - begin < seconds:
        session()
    return (session.trainer.counters.steps - first) / (time.perf_counter() - begin)
