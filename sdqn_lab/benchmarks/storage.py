"""Replay memory: how fast it takes and gives, and what a transition weighs."""

from math import prod

import numpy as np
import torch

from sdqn_lab.agents.replay import Replay
from sdqn_lab.benchmarks import arms
from sdqn_lab.benchmarks.rows import Row, Setting, contest
from sdqn_lab.benchmarks.timing import Spread, wall


def add_rows(name: str, setting: Setting, game: str) -> list[Row]:
    """Adding one step of all environments; times are those of one transition."""
    cfg = arms.composed(game, "fused", str(setting.device), setting.threads)
    rng = np.random.default_rng(0)
    replay = arms.filled_replay(cfg, game, rng)
    frames = np.zeros((replay.num_envs, *replay.frame_shape), np.uint8)
    add = lambda: arms.append_row(replay, frames, rng)  # noqa: E731
    return contest(name, add, {}, setting, per=replay.num_envs, watch=wall)


def sample_rows(name: str, setting: Setting, game: str, batch: int) -> list[Row]:
    """Drawing a batch; times are those of the batch."""
    cfg = arms.composed(game, "fused", str(setting.device), setting.threads)
    rng = np.random.default_rng(0)
    replay = arms.filled_replay(cfg, game, rng)
    sample = lambda: replay.sample(batch, cfg.algo.n_step, cfg.algo.gamma, rng)  # noqa: E731
    return contest(name, sample, {}, setting)


def weight_rows(name: str, setting: Setting, game: str) -> list[Row]:
    """Bytes of a transition, against one that stores both its stacked observations."""
    channels, *pixels = arms.SHAPES[game]
    stack = channels if game == "pong" else 1
    shape = (channels // stack, *pixels)
    few, many = (Replay.bytes_needed(n, 1, shape, torch.uint8) for n in (1, 1_001))
    ours = (many - few) / 1_000
    naive = 2 * prod(arms.SHAPES[game]) + ours - prod(shape)
    both = Spread(naive, naive, naive)
    return [Row(name, Spread(ours, ours, ours), "both stacks stored", both, unit="bytes")]
