"""Trained runs of every kind, and what was recorded of them."""

import re
from pathlib import Path
from typing import Any

import sdqn_lab
from sdqn_lab.runs.metrics import read_metrics
from sdqn_lab.training.evaluation import Start
from sdqn_lab.watching.episodes import Episodes, play
from sdqn_lab.watching.player import Player

COMMON = ["budget=smoke", "tracker=none", "threads=1", "device=cpu"]
MINATAR = ["env=minatar_breakout", "network.channels=[8]", "network.hidden=96", "time_window=4"]
ALONE = ["protocol.eval_episodes=1"]
AWAKE = ["time_window=2", "network.normalize_hidden=true", "protocol.episode_cap_frames=160"]
NORMALIZED = ["env.normalize_observations=true", "env.observation_clip=3"]
RUNS = {
    "minatar": [*MINATAR, "experiment=pl_sdqn", "network.normalize_hidden=true"],
    "poisson": [*MINATAR, "encoder=poisson", *ALONE, "protocol.epsilon_eval=0.5"],
    "relu": ["env=minatar_breakout", "experiment=dqn", "network.channels=[4]", "network.hidden=16"],
    "atari": ["env=breakout", "network.channels=[4,4,4]", "network.hidden=16", *AWAKE],
    "cartpole": ["env=cartpole", "network.hidden=8", "time_window=2"],
    "normalized": ["env=cartpole", "network.hidden=8", "time_window=2", *NORMALIZED],
    "batchnorm": ["env=minatar_breakout", "time_window=2", "norm=batchnorm"],
}


def last_evaluation(run: Path) -> dict[str, Any]:
    return [r for r in read_metrics(run / "metrics.jsonl") if "eval/returns" in r][-1]


def episodes(run: Path, copies: int = 1, **settings: Any) -> tuple[Player, Start, Episodes]:
    """Play as the run's last evaluation did."""
    player = sdqn_lab.load(run)
    start = Start(player.cfg.seed, last_evaluation(run)["iteration"] - 1)
    return player, start, play(player, player.make_env(copies), start, **settings)


def change(run: Path, old: str, new: str) -> None:
    """Replace a pattern in a run's config."""
    file = run / "config.yaml"
    text, count = re.subn(old, new, file.read_text())
    assert count
    file.write_text(text)
