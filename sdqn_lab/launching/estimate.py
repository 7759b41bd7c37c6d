"""What a sweep would cost, said before anything is started."""

import math
import time
from bisect import bisect_left
from contextlib import closing
from functools import partial
from itertools import cycle
from statistics import mean

import numpy as np
import torch
from omegaconf import DictConfig

from sdqn_lab.agents.base import Agent, Row
from sdqn_lab.assembly import build
from sdqn_lab.config.directories import existing_state
from sdqn_lab.config.identity import identity
from sdqn_lab.config.planning import Cell, Plan
from sdqn_lab.config.validation import cuda_devices, env_spec, memory_bytes
from sdqn_lab.launching.queue import SlurmError
from sdqn_lab.launching.slurm import check_array
from sdqn_lab.runs.directory import RunDirectory
from sdqn_lab.tracking.progress import clock

LEAST_SECONDS = 1.0
"""For which training is measured, and an evaluation at most."""
GAMES = 5
"""On which an arm is measured, at most: games differ in speed by half."""
START_SECONDS = 6.0
"""Of a process until its first step, its code compiled before; ours, see docs/SPEED.md."""
NOT_MEASURED = "  times not measured: this machine does not have the cells' device"


def describe(planned: Plan) -> list[str]:
    """Cells, collapsed duplicates, sizes, and the time that they would take on this machine.

    Nothing is written. Times come from a second of training and an evaluation in some games of each
    arm, measured here and now.

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
        if cfg.backend != "auto":
            parts.append(f"backend={cfg.backend}")
        arms.setdefault(" ".join(map(str, parts)), []).append(cfg)
    lines, total = list[str](), 0.0
    for arm, members in arms.items():
        steps = sum(cfg.budget.steps for cfg in members)
        games = list({cfg.choices["env"]: cfg for cfg in members}.values())[:GAMES]
        seconds = steps * mean(cell_seconds(cfg) / cfg.budget.steps for cfg in games)
        total += seconds
        rate = f"{steps / seconds:,.0f} steps/s"
        lines.append(f"  {arm}: {len(members)} cells, {rate}, {clock(seconds)}")
    device = build.resolve_device(cells[0].cfg.device).type
    threads = build.resolve_threads(cells[0].cfg.threads)
    where = f"measured here on {device}, {threads} CPU threads, one cell after the other"
    return [*lines, f"  together {clock(total)} ({where})"]


def cell_seconds(cfg: DictConfig) -> float:
    """Time of one cell on this machine: its start, acting, learning and evaluations."""
    torch.set_num_threads(build.resolve_threads(cfg.threads))
    agent = build.build_agent(cfg, env_spec(cfg))
    step, update = training_seconds(cfg, agent)
    evaluation = evaluation_seconds(cfg, agent)
    iterations = math.ceil(cfg.budget.steps / agent.iteration_steps)
    training = step * cfg.budget.steps + update * _updates(cfg)
    seconds: float = START_SECONDS + training + evaluation * iterations
    return seconds


def training_seconds(cfg: DictConfig, agent: Agent) -> tuple[float, float]:
    """Seconds of an agent step without what is learned from it, and of an update.

    The loop is that of the trainer from where learning starts, with the rhythm of the algorithm; it
    explores as in all parts of the run in turn.
    """
    steps, arguments = cfg.budget.steps, build.algo_arguments(cfg)
    made = partial(build.agent_class(cfg).updates_made, arguments)
    taken = first = bisect_left(range(steps), 1, key=made)
    acting, learning = list[float](), list[float]()
    # Backwards: at the beginning of a run the network may not even be asked.
    moments = cycle(np.linspace(steps, 0, 64, dtype=int).tolist())
    end = math.inf if made(steps) else now() + LEAST_SECONDS
    with closing(build.build_env(cfg, cfg.algo.num_envs)) as env:
        observations = env.reset(seed=0)
        for _ in range(math.ceil(steps / env.num_envs)):
            begin = now()
            decision = agent.act(observations, next(moments))
            step = env.step(decision.actions)
            valid = ~step.started
            row = Row(observations, decision.actions, step.rewards, step.terminated, valid)
            agent.observe(row, decision.extras)
            acting.append(now() - begin)
            taken, observations = taken + int(np.count_nonzero(valid)), step.observations
            begin = now()
            for _ in agent.learn(taken):
                agent.gradient_norms()
                learning.append(now() - begin)
                # Counted from here on: the first of everything loads or compiles its code.
                end, begin = min(end, now() + LEAST_SECONDS), now()
                if begin >= end:
                    break
            if now() >= end:
                break
    per_row = (taken - first) / len(acting)
    return mean(acting[1:] or acting) / per_row, mean(learning[1:] or learning or [0.0])


def evaluation_seconds(cfg: DictConfig, agent: Agent) -> float:
    """Seconds of an evaluation of the untrained agent, `LEAST_SECONDS` at most."""
    policy = agent.policy(
        agent.network,
        agent.env.actions,
        epsilon=cfg.protocol.epsilon_eval,
        generator=torch.Generator(agent.device),
    )
    rng = np.random.default_rng(0)
    with closing(build.build_env(cfg, cfg.protocol.eval_episodes)) as env:
        running, observations, begin = np.ones(env.num_envs, bool), env.reset(seed=0), now()
        while running.any() and now() < begin + LEAST_SECONDS:
            actions = agent.env.no_actions(env.num_envs)
            actions[running] = policy.act(observations[running], rng, cfg.time_window_eval).actions
            step = env.step(actions)
            running = running & ~(step.terminated | step.truncated)
            observations = step.observations
        return now() - begin


def now() -> float:
    """The time, once a GPU has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _updates(cfg: DictConfig) -> int:
    return build.agent_class(cfg).updates_made(build.algo_arguments(cfg), cfg.budget.steps)
