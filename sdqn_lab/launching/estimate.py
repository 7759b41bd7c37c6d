"""What a sweep would cost, said before anything is started."""

import math
import time
from collections.abc import Callable
from statistics import median
from typing import TypeVar

import numpy as np
import torch
from omegaconf import DictConfig

from sdqn_lab.agents.base import Row
from sdqn_lab.assembly import build
from sdqn_lab.config.directories import existing_state
from sdqn_lab.config.identity import identity
from sdqn_lab.config.planning import Cell, Plan
from sdqn_lab.config.validation import cuda_devices, memory_bytes
from sdqn_lab.launching.queue import SlurmError
from sdqn_lab.launching.slurm import check_array
from sdqn_lab.runs.directory import RunDirectory
from sdqn_lab.tracking.progress import clock

REPETITIONS = 3
T = TypeVar("T")
NOT_MEASURED = "  times not measured: this machine does not have the cells' device"


def describe(planned: Plan) -> list[str]:
    """Cells, collapsed duplicates, sizes, and the time that they would take on this machine.

    Nothing is written. Times come from a few decisions, updates and environment steps of each arm,
    measured here and now; evaluations are not in them.

    Raises:
        ConfigError: a directory holds something else.
        Refused: they would be more jobs than an array may have.
    """
    cells = list(planned.cells.values())
    key = "hydra.sweep.dir" if planned.multirun else "hydra.run.dir"
    left = [c for c in cells if existing_state(key, RunDirectory(c.path), c.cfg) != "finished"]
    steps = sum(cell.cfg.budget.steps for cell in left)
    lines = [
        f"{len(cells)} cells in {planned.sweep_dir}",
        f"  asked for: {planned.asked} combinations, {planned.asked - len(cells)} of them "
        "duplicates that collapse (what means nothing to a neuron does not make a cell)",
        f"  to run: {len(left)}, finished already: {len(cells) - len(left)}",
        f"  {steps:,} agent steps, {sum(_updates(cell.cfg) for cell in left):,} updates",
    ]
    if left:
        memory = max(memory_bytes(cell.cfg) for cell in left)
        lines.append(f"  memory: up to {memory / 1e9:.2f} GB per cell")
        devices = [cell.cfg.device.partition(":") for cell in left]
        here = all(kind != "cuda" or int(i or 0) < cuda_devices() for kind, _, i in devices)
        lines += arm_times(left) if here else [NOT_MEASURED]
    launcher = planned.launcher
    if left and "cells_per_task" in launcher:
        jobs = math.ceil(len(left) / launcher.cells_per_task)
        lines.append(
            f"  SLURM: {jobs} jobs of {launcher.cells_per_task} cells, at most "
            f"{launcher.array_parallelism} at once, time limit {launcher.timeout_min} min"
        )
        try:
            check_array(len(left), launcher.cells_per_task)
        except SlurmError as error:
            lines.append(f"  WARNING SLURM cannot be asked from here ({error})")
    return [*lines, "nothing was started"]


def arm_times(cells: list[Cell]) -> list[str]:
    """One line per arm, and the sum."""
    arms: dict[str, list[DictConfig]] = {}
    for cell in cells:
        cfg, choices = cell.cfg, cell.cfg.choices
        # What sets the speed: everything but game and seed.
        parts = [choices["algo"], choices["network"], choices["neuron"], choices["norm"]]
        if "time_window" in identity(cfg):
            parts += [choices["surrogate"], f"T={cfg.time_window}"]
        arms.setdefault(" ".join(map(str, parts)), []).append(cfg)
    lines, total = list[str](), 0.0
    for arm, members in arms.items():
        per_step = seconds_per_step(members[0])
        seconds = sum(cfg.budget.steps for cfg in members) * per_step
        total += seconds
        lines.append(
            f"  {arm}: {len(members)} cells, {1 / per_step:,.0f} steps/s, {clock(seconds)}"
        )
    device = build.resolve_device(cells[0].cfg.device).type
    threads = build.resolve_threads(cells[0].cfg.threads)
    where = f"measured here on {device}, {threads} CPU threads, one cell after the other"
    return [*lines, f"  together {clock(total)} ({where}, without evaluations)"]


def seconds_per_step(cfg: DictConfig) -> float:
    """Time of an agent step with its share of an update, measured on this machine."""
    torch.set_num_threads(build.resolve_threads(cfg.threads))
    steps, updates = cfg.budget.steps, _updates(cfg)
    env = build.build_env(cfg, cfg.algo.num_envs)
    try:
        agent = build.build_agent(cfg, build.env_spec(env))
        observations, nothing = env.reset(seed=0), np.zeros(env.num_envs)
        decision = agent.act(observations, steps)
        # The first of everything is slow, and no part of the measurement.
        acting = [
            clocked(lambda: env.step(agent.act(observations, steps).actions))[0]
            for _ in range(1 + REPETITIONS)
        ][1:]
    finally:
        env.close()
    # What is remembered does not matter to the clock, only that updates can be made of it.
    row = Row(observations, decision.actions, nothing, nothing > 0, nothing == 0)
    learning = []
    for _ in range(min(updates, 1 + REPETITIONS)):
        for _ in range(steps):  # a memory that gives nothing by then never will
            seconds, made = clocked(lambda: next(iter(agent.learn(steps)), None))
            if made is not None:
                learning.append(seconds)
                break
            agent.observe(row, decision.extras)
    updating = median(learning[1:] or learning or [0.0])
    whole: float = median(acting) / env.num_envs + updating * updates / steps
    return whole


def clocked(work: Callable[[], T]) -> tuple[float, T]:
    """How long some work takes, what it leaves to the GPU included, and what comes of it."""
    begin = time.perf_counter()
    result = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begin, result


def _updates(cfg: DictConfig) -> int:
    return build.agent_class(cfg).updates_made(build.algo_arguments(cfg), cfg.budget.steps)
