"""A run of PPO from its command to its report and video, as a user makes them."""

import json

import numpy as np
import pytest

import sdqn_lab
from sdqn_lab import play, report
from tests.cells import numbers, run

SMALL = ["env=minatar_breakout", "budget=smoke", "tracker=none", "threads=1", "device=cpu"]
SMALL += ["time_window=2", "network.hidden=16"]
ARMS = {
    "pl_ppo": ["algo.shared_trunk=false"],
    "ppo": ["algo.shared_trunk=false"],
    "pl_a2c": [],
    "pl_reinforce": [],
}
LAYERS = ["conv1", "hidden", "value.conv1", "value.hidden"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("policies")
    for arm, own in ARMS.items():
        assert run([*SMALL, f"experiment={arm}", *own], folder / arm) == 0
    return folder


@pytest.mark.slow  # a cell of each algorithm; test_resume.py runs them too
def test_records_speak_of_policy_and_value_and_of_the_layers_of_both(runs):
    seen = {name: {k for r in numbers(runs / name) for k in r} for name in ("pl_ppo", "pl_a2c")}
    common = {"loss/policy", "loss/value", "policy/entropy", "value/explained_variance"}
    assert common <= seen["pl_a2c"] & seen["pl_ppo"]
    assert {"policy/approx_kl", "policy/clip_fraction"} <= seen["pl_ppo"] - seen["pl_a2c"]
    for layer in LAYERS:
        assert {f"snn/firing_rate/{layer}", f"grad/norm/{layer}"} <= seen["pl_ppo"]
    probed = json.loads((runs / "pl_ppo" / "probe.json").read_text())
    assert [layer["name"] for layer in probed["layers"]] == [*LAYERS, "policy", "value"]


@pytest.mark.slow  # a cell of each algorithm; test_resume.py runs them too
def test_arms_are_reported_with_their_energy_against_the_baseline_that_is_named(runs, tmp_path):
    command = [str(runs), "--out", str(tmp_path), "--against", "neuron=relu"]
    assert report.main(command) == 0
    page = (tmp_path / "index.html").read_text()
    assert all(name in page for name in ("pl_ppo", "pl_a2c", "pl_reinforce", "over ppo"))
    assert "Energy" in page
    assert "value.conv1" in page


@pytest.mark.slow  # a cell of each algorithm; test_resume.py runs them too
@pytest.mark.parametrize("arm", ["pl_ppo", "pl_reinforce"])
def test_a_policy_is_played_with_a_video_of_its_spikes(runs, arm, tmp_path, capsys):
    video = tmp_path / "policy.gif"
    assert play.main([str(runs / arm), "--video", str(video), "--raster"]) == 0
    assert video.stat().st_size > 1_000
    # The evaluation's episodes once more: draws begin where they began there.
    last = next(r for r in numbers(runs / arm) if "eval/return_mean" in r)
    assert f"{last['eval/return_mean']:.2f} [" in capsys.readouterr().out


@pytest.mark.slow  # a cell of each algorithm; test_resume.py runs them too
def test_a_loaded_policy_draws_its_actions_and_has_no_action_values(runs):
    player = sdqn_lab.load(runs / "pl_ppo")
    actions = player.act(np.zeros((500, 4, 10, 10), np.uint8))
    assert set(actions.tolist()) == set(range(6))  # hardly trained: all are likely
    with pytest.raises(TypeError, match="algo=ppo has no action values"):
        player.q_values(np.zeros((1, 4, 10, 10), np.uint8))
