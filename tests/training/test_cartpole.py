"""The slow set: a task that people know, solved by spikes."""

import json

import pytest
from rich.console import Console

from sdqn_lab import config
from sdqn_lab.runs.directory import RunDirectory
from sdqn_lab.training.cell import run_cell

QUIET = Console(quiet=True)
SOLVED = 475.0
"""Gymnasium's own threshold for CartPole-v1."""


def scores(overrides, path):
    """Means of all evaluations."""
    common = ["env=cartpole", "time_window=4", "threads=1", "tracker=none"]
    assert run_cell(config.compose([*common, *overrides]), RunDirectory(path), QUIET) == 0
    lines = (path / "metrics.jsonl").read_text().splitlines()
    return [r["eval/return_mean"] for r in map(json.loads, lines) if "eval/return_mean" in r]


@pytest.mark.slow
def test_a_spiking_network_solves_cartpole(tmp_path):
    overrides = ["experiment=pl_sdqn", "budget.steps=120000", "algo.iteration_steps=10000"]
    assert max(scores([*overrides, "algo.learning_rate=5e-4"], tmp_path)) >= SOLVED


@pytest.mark.slow
@pytest.mark.parametrize("experiment", ["pl_ppo", "pl_a2c"])
def test_a_spiking_actor_and_critic_learn_cartpole(experiment, tmp_path):
    overrides = [f"experiment={experiment}", "budget.steps=300000"]
    # Actions are drawn in evaluation too, so a single episode of ten may be lost.
    assert max(scores(overrides, tmp_path)) >= 0.9 * SOLVED
