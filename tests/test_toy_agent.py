"""A second family of algorithms needs one class and one YAML, and no change elsewhere."""

import json
import os
import signal

import numpy as np
import pytest

import sdqn_lab
from sdqn_lab import config, play, report
from sdqn_lab.runs.stopping import PREEMPTED_EXIT
from tests.cells import numbers, run
from tests.toy_agent import TOY, ToyActor
from tests.training.toys import toy_trainer

OVERRIDES = ["algo=toy", "tracker=none", "threads=1", "time_window=3", "budget.steps=700"]
OVERRIDES += ["budget.log_every_steps=100", "protocol.eval_episodes=2"]


@pytest.fixture
def overrides(tmp_path) -> list[str]:
    """The option file lies outside the package, found by Hydra's own search path."""
    (tmp_path / "conf" / "algo").mkdir(parents=True)
    (tmp_path / "conf" / "algo" / "toy.yaml").write_text(TOY)
    return [*OVERRIDES, f"hydra.searchpath=[file://{tmp_path / 'conf'}]"]


@pytest.mark.parametrize("env", ["minatar_breakout", "cartpole"])
def test_it_trains_and_says_so_as_every_algorithm_does(env, overrides, tmp_path):
    assert run([*overrides, f"env={env}"], tmp_path / "run") == 0
    records = numbers(tmp_path / "run")
    seen = {key for record in records for key in record}
    assert {"loss/actor_critic", "eval/return_mean", "train/return"} <= seen
    assert {"grad/norm/policy", "grad/norm/value"} <= seen
    assert any(key.startswith("snn/firing_rate/hidden") for key in seen)
    assert records[-1]["iteration"] == 4
    probed = json.loads((tmp_path / "run" / "probe.json").read_text())
    assert [layer["name"] for layer in probed["layers"]][-2:] == ["policy", "value"]


def test_stopped_in_the_middle_of_a_rollout_it_resumes_bit_for_bit(
    overrides, tmp_path, monkeypatch
):
    overrides = [*overrides, "env=minatar_breakout", "norm=batchnorm"]
    assert run(overrides, tmp_path / "whole") == 0
    observe, calls = ToyActor.observe, []

    def observe_and_stop(agent, row, extras):
        observe(agent, row, extras)
        calls.append(len(agent.rows))
        if len(calls) == 40:
            os.kill(os.getpid(), signal.SIGUSR2)

    monkeypatch.setattr(ToyActor, "observe", observe_and_stop)
    assert run(overrides, tmp_path / "stopped") == PREEMPTED_EXIT
    assert 0 < calls[-1] < 16  # rows of a rollout
    assert run(overrides, tmp_path / "stopped") == 0
    assert numbers(tmp_path / "stopped") == numbers(tmp_path / "whole")
    weights = [
        (tmp_path / n / "network_last.safetensors").read_bytes() for n in ("whole", "stopped")
    ]
    assert weights[0] == weights[1]


def test_it_is_reported_beside_a_dqn_and_played(overrides, tmp_path, capsys):
    env = "env=minatar_breakout"
    smoke = [env, "budget=smoke", *OVERRIDES[1:4]]
    assert run(["algo=toy", *smoke, overrides[-1]], tmp_path / "runs" / "toy") == 0
    assert run(["algo=dqn", *smoke], tmp_path / "runs" / "dqn") == 0
    assert report.main([str(tmp_path / "runs"), "--out", str(tmp_path / "report")]) == 0
    page = (tmp_path / "report" / "index.html").read_text()
    assert "algo=toy" in page
    capsys.readouterr()
    video = ["--episodes", "1", "--video", str(tmp_path / "toy.gif"), "--raster"]
    assert play.main([str(tmp_path / "runs" / "toy"), "--trust", *video]) == 0
    assert (tmp_path / "toy.gif").stat().st_size > 1_000


def test_a_loaded_agent_acts_and_says_that_it_has_no_action_values(overrides, tmp_path):
    assert run([*overrides, "env=minatar_breakout"], tmp_path / "run") == 0
    with pytest.raises(config.ConfigError, match=r"algo\._target_=tests\.toy_agent\.ToyActor"):
        sdqn_lab.load(tmp_path / "run")
    player = sdqn_lab.load(tmp_path / "run", trust=True)
    observations = np.zeros((5, *player.make_env(1).observation_shape), np.uint8)
    assert player.act(observations).shape == (5,)
    with pytest.raises(TypeError, match="algo=toy has no action values"):
        player.q_values(observations)


def test_it_learns_to_name_the_state_it_sees(overrides):
    cfg = config.compose(
        [*overrides, "env=cartpole", "budget.steps=4000", "algo.iteration_steps=4000"]
    )
    trainer, tape = toy_trainer(cfg)
    trainer.run()
    assert tape.evaluations()[-1] >= 0.9 * 16


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("algo.rollout_rows=0", "algo.rollout_rows=0: must be >= 1"),
        (
            "algo.learning_rate=-1",
            "algo.learning_rate=-1: must be > 0; write algo.learning_rate=0.01",
        ),
        ("algo.rollout_rows=1.5", "algo.rollout_rows=1.5: must be a whole number"),
        ("algo.gamma=0.9", "option toy of algo has no key gamma"),
    ],
)
def test_its_arguments_are_checked_by_its_own_constructor(override, line, overrides):
    with pytest.raises(config.ConfigError) as refused:
        config.compose([*overrides, override, "env=cartpole"])
    assert line in str(refused.value)
