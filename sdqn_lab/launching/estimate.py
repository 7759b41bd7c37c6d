"""What a sweep would cost, said before anything is started."""

import math
import time
from collections.abc import Callable

import numpy as np
import torch
from omegaconf import DictConfig

from sdqn_lab import build
from sdqn_lab.agents.base import Row
from sdqn_lab.config import identity
from sdqn_lab.config.directories import begun
from sdqn_lab.config.planning import Cell, Plan
from sdqn_lab.config.validation import cuda_devices, memory_bytes
from sdqn_lab.launching.queue import SlurmError, most_tasks
from sdqn_lab.runs.directory import RunDirectory
from sdqn_lab.tracking.progress import clock

REPETITIONS = 3
NOT_MEASURED = "  times not measured: this machine does not have the cells' device"


def describe(planned: Plan) -> list[str]:
    """Cells, collapsed duplicates, sizes, and the time that they would take on this machine.

    Nothing is written. Times come from a few decisions, updates and environment steps of each arm,
    measured here and now; evaluations are not in them.

    Raises:
        ConfigError: a directory holds something else.
    """
    cells = list(planned.cells.values())
    key = "hydra.sweep.dir" if planned.multirun else "hydra.run.dir"
    open_ = [c for c in cells if begun(key, RunDirectory(c.path), c.cfg) != "finished"]
    steps = sum(cell.cfg.budget.steps for cell in open_)
    lines = [
        f"{len(cells)} cells in {planned.sweep_dir}",
        f"  asked for: {planned.asked} combinations, {planned.asked - len(cells)} of them "
        "duplicates that collapse (what means nothing to a neuron does not make a cell)",
        f"  to run: {len(open_)}, finished already: {len(cells) - len(open_)}",
        f"  {steps:,} agent steps, {sum(_updates(cell.cfg) for cell in open_):,} updates",
    ]
    if open_:
        memory = max(memory_bytes(cell.cfg) for cell in open_)
        lines.append(f"  memory: up to {memory / 1e9:.2f} GB a cell")
        lines += _times(open_) if all(_is_here(c.cfg.device) for c in open_) else [NOT_MEASURED]
    return [*lines, *_jobs(planned, len(open_)), "nothing was started"]


def _is_here(device: str) -> bool:
    """Whether this machine has a device that cells are to run on."""
    kind, _, index = device.partition(":")
    return kind != "cuda" or int(index or 0) < cuda_devices()


def _updates(cfg: DictConfig) -> int:
    return build.agent_class(cfg).updates_made(build.algo_arguments(cfg), cfg.budget.steps)


def _jobs(planned: Plan, count: int) -> list[str]:
    """How the launcher would start them."""
    launcher = planned.launcher
    if "cells_per_task" not in launcher or not count:
        return []
    jobs = math.ceil(count / launcher.cells_per_task)
    line = f"  SLURM: {jobs} jobs of {launcher.cells_per_task} cells, at most "
    line += f"{launcher.array_parallelism} at once, time limit {launcher.timeout_min} min"
    try:
        arrays = math.ceil(jobs / most_tasks())
    except SlurmError as error:
        return [line, f"  WARNING SLURM cannot be asked from here ({error})"]
    return [f"{line}, in {arrays} {'array' if arrays == 1 else 'arrays'}"]


def _times(cells: list[Cell]) -> list[str]:
    """One line an arm, and the sum."""
    arms: dict[str, list[Cell]] = {}
    for cell in cells:
        arms.setdefault(_arm(cell.cfg), []).append(cell)
    lines, total = list[str](), 0.0
    for arm, members in arms.items():
        rate = 1.0 / seconds_per_step(members[0].cfg)
        seconds = sum(member.cfg.budget.steps for member in members) / rate
        total += seconds
        lines.append(f"  {arm}: {len(members)} cells, {rate:,.0f} steps/s, {clock(seconds)}")
    device = build.resolve_device(cells[0].cfg.device).type
    threads = build.resolve_threads(cells[0].cfg.threads)
    where = f"measured here on {device}, {threads} CPU threads, one cell after the other"
    return [*lines, f"  together {clock(total)} ({where}, without evaluations)"]


def _arm(cfg: DictConfig) -> str:
    """The choices that set the speed: everything but game and seed, in words."""
    choices = cfg.choices
    words = [choices["network"], choices["neuron"], choices["norm"]]
    if "time_window" in identity(cfg):
        words += [choices["surrogate"], f"T={cfg.time_window}"]
    return " ".join(map(str, words))


def seconds_per_step(cfg: DictConfig) -> float:
    """Time of an agent step with its share of an update, measured on this machine."""
    torch.set_num_threads(build.resolve_threads(cfg.threads))
    steps, updates = cfg.budget.steps, _updates(cfg)
    env = build.build_env(cfg, cfg.algo.num_envs)
    try:
        agent = build.build_agent(cfg, build.env_spec(env))
        observations, nothing = env.reset(seed=0), np.zeros(env.num_envs)
        decision = agent.act(observations, steps)
        acting = _median(lambda: agent.act(observations, steps))
        stepping = _median(lambda: env.step(decision.actions))
    finally:
        env.close()
    deciding: float = (acting + stepping) / env.num_envs
    # What is remembered does not matter to the clock, only that updates can be made of it.
    row = Row(observations, decision.actions, nothing, nothing > 0, nothing == 0)
    times = []
    for _ in range(min(updates, 1 + REPETITIONS)):
        for _ in range(steps):  # a memory that gives nothing by then never will
            begin = time.perf_counter()
            made = next(iter(agent.learn(steps)), None)
            if made is not None:
                break
            agent.observe(row, decision.extras)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    warm = sorted(times[1:] or times or [0.0])
    updating: float = warm[len(warm) // 2] * updates / steps
    return deciding + updating


def _median(work: Callable[[], object]) -> float:
    work()
    times = []
    for _ in range(REPETITIONS):
        begin = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return sorted(times)[REPETITIONS // 2]
