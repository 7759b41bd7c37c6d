"""The algorithm that a tutorial writes step by step is one like any other."""

import os
import re
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sdqn_lab import config
from sdqn_lab.agents.base import EnvSpec, Row
from sdqn_lab.assembly import build
from sdqn_lab.runs.stopping import PREEMPTED_EXIT
from tests.cells import numbers, run

PAGE = Path(__file__).resolve().parents[1] / "docs" / "tutorials" / "first_algorithm.md"
SMALL = ["algo=sarsa", "env=cartpole", "network.hidden=32", "time_window=2", "threads=1"]
SMALL += ["tracker=none", "budget.steps=1_000", "budget.log_every_steps=200"]
SMALL += ["algo.iteration_steps=500", "protocol.eval_episodes=2"]


@pytest.fixture
def overrides(tmp_path, monkeypatch) -> list[str]:
    for name in ("sarsa.py", "mine/algo/sarsa.yaml"):
        (text,) = re.findall(rf"^```\w+\n(# {name}\n.*?)^```$", PAGE.read_text(), re.M | re.S)
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    return [*SMALL, f"hydra.searchpath=[file://{tmp_path / 'mine'}]"]


@pytest.mark.slow  # 15 s; every other algorithm is stopped and resumed too
def test_stopped_after_a_step_it_resumes_bit_for_bit(overrides, tmp_path, monkeypatch):
    assert run(overrides, tmp_path / "whole") == 0
    records = numbers(tmp_path / "whole")
    assert {"loss/td", "q/mean", "eval/return_mean"} <= set().union(*records)
    learner, calls = sys.modules["sarsa"].Sarsa, []
    observe = learner.observe

    def observe_and_stop(agent, row, extras):
        observe(agent, row, extras)
        calls.append(row)
        if len(calls) == 20:
            os.kill(os.getpid(), signal.SIGUSR2)

    monkeypatch.setattr(learner, "observe", observe_and_stop)
    assert run(overrides, tmp_path / "stopped") == PREEMPTED_EXIT
    assert run(overrides, tmp_path / "stopped") == 0
    assert numbers(tmp_path / "stopped") == records


def test_the_option_is_refused_as_the_page_says(overrides):
    with pytest.raises(config.ConfigError) as refused:
        config.compose([*overrides, "algo.epsilon=2"])
    assert str(refused.value) in PAGE.read_text()


def test_its_loss_is_that_of_the_action_taken_next(overrides):
    cfg = config.compose(overrides)
    env = EnvSpec((4,), 2, dtype=torch.float32)
    network = build.build_network(cfg, (4,), 2)
    agent = sys.modules["sarsa"].Sarsa(network, env, seed=0)
    seen, yes, no = np.ones((3, 4), np.float32), np.array([False, True, False]), np.zeros(3, bool)
    rewards = np.array([1.0, -1.0, 5.0], np.float32)
    row = Row(seen, np.array([0, 1, 0]), rewards, terminal=yes, valid=np.array([True, True, False]))
    agent.observe(row, {"value": np.zeros(3)})
    assert list(agent.learn(3)) == []
    agent.observe(row._replace(terminal=no), {"value": np.array([0.5, 7.0, 7.0])})
    q = network.train()(torch.from_numpy(seen[:2])).detach()
    (metrics,) = agent.learn(6)
    # 0.1 r + 0.99 Q(s', a'), and 0.1 r after a terminal step; the third only started an episode.
    errors = 0.1 + 0.99 * 0.5 - q[0, 0], -0.1 - q[1, 1]
    assert metrics["loss/td"] == pytest.approx(float(errors[0] ** 2 + errors[1] ** 2) / 2, rel=1e-5)
