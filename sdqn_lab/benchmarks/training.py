"""Environments under random actions; cells of a sweep side by side on a GPU."""

import time
from collections.abc import Callable, Iterator
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
from sdqn_lab.benchmarks.rows import Benchmark, Row, Setting, compare
from sdqn_lab.benchmarks.timing import Spread, Workload
from sdqn_lab.benchmarks.variants import ATARI, MINATAR, Session, Variant
from sdqn_lab.envs.atari import Atari
from sdqn_lab.envs.base import VectorEnv
from sdqn_lab.envs.minatar import MinAtar

Actions = np.ndarray[Any, Any]
STEPS = 160
"""Agent steps in one call, with 8 or 10 environments."""
CELLS = (1, 2, 4, 8)


def benchmarks(setting: Setting) -> Iterator[Benchmark]:
    """All of this module; several cells at once on GPUs alone."""
    for variant in (Variant(ATARI, 16), Variant(MINATAR, 4)):
        family = variant.label.partition("/")[0]
        env, bare = (partial(stepping, setting, variant, bare=bare) for bare in (False, True))
        others = {"bare emulator": bare}
        yield Benchmark(f"environment/{family}", setting, compare, env, others, STEPS)
        if setting.device.type == "cuda":
            yield Benchmark(f"cells/{variant.label}", setting, cells_rows, variant)


def environment(setting: Setting, variant: Variant) -> VectorEnv:
    """As many environments as the variant's algorithm asks for, begun."""
    cfg = variants.composed(setting, variant)
    env = build.build_env(cfg, cfg.algo.num_envs)
    env.reset(0)
    return env


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
            arguments = share, variant, seconds, warm
            cells = [pool.submit(cell_speed, *arguments) for _ in range(count)]
            # The first that completes may have failed; the others then meet a broken barrier.
            total = sum(cell.result() for cell in as_completed(cells))
        ours, more = Spread(*[1e3 / total] * 3), {"ours_steps_per_second": total}
        first = rows[0].ours if rows else ours
        rows.append(Row(f"{name}/cells={count}", ours, f"cells={counts[0]}", first, more=more))
    return rows


def cell_speed(setting: Setting, variant: Variant, seconds: float, warm: Barrier) -> float:
    """Steps per second of one cell, which waits for the others before it begins."""
    torch.set_num_threads(setting.threads)
    try:
        session = Session(setting, variant)
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
