"""The slow set: a task that people know, solved by spikes."""

import json

import pytest
from rich.console import Console

from sdqn_lab import config
from sdqn_lab.runs.directory import RunDirectory
from sdqn_lab.training.cell import run_cell

SOLVED = 475.0
"""Gymnasium's own threshold for CartPole-v1."""


@pytest.mark.slow
def test_a_spiking_network_solves_cartpole(tmp_path):
    overrides = ["experiment=pl_sdqn", "env=cartpole", "time_window=4", "budget.steps=120000"]
    overrides += [
        "algo.iteration_steps=10000",
        "algo.learning_rate=5e-4",
        "threads=1",
        "tracker=none",
    ]
    assert run_cell(config.compose(overrides), RunDirectory(tmp_path), Console(quiet=True)) == 0
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    played = [r["eval/return_mean"] for r in map(json.loads, lines) if "eval/return_mean" in r]
    assert max(played) >= SOLVED
