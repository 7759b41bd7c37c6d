"""Runs with continuous actions from their command to their report, video and resume."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import sdqn_lab
from sdqn_lab import config, export, play, report
from sdqn_lab.assembly import build
from sdqn_lab.config import compose
from sdqn_lab.envs.base import ActionBox
from sdqn_lab.networks.network import SpikingNetwork
from sdqn_lab.training.health import first_observations, probe
from tests.cells import kill_at, numbers, run
from tests.refusals import problems, remedy, subject

pytestmark = pytest.mark.xdist_group("continuous")
COMMON = ["env=pendulum", "tracker=none", "device=cpu", "time_window=2", "network.hidden=16"]
SMALL = [*COMMON, "budget=smoke", "budget.steps=400", "algo.num_envs=4"]
ARMS = {
    "pl_ppo": ["algo.shared_trunk=true"],
    "ppo": [],
    "pl_a2c": [],
    "pl_reinforce": ["env=mountain_car_continuous", "protocol.episode_cap_frames=60"],
}
ECHO = ["env=gymnasium", "env.id=tests.toy_envs:Echo-v0", "env.family=continuous"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("continuous")
    for arm, own in ARMS.items():
        assert run([*SMALL, f"experiment={arm}", *own], folder / arm) == 0
    return folder


@pytest.fixture(scope="module")
def echo(tmp_path_factory):
    """A game with pictures, whose actions are two numbers."""
    path = tmp_path_factory.mktemp("echo")
    assert run([*SMALL, *ECHO, "experiment=pl_ppo", "budget.steps=200"], path) == 0
    return path


@pytest.mark.parametrize("arm", ARMS)
def test_every_policy_gradient_learns_evaluates_and_records(runs, arm):
    records = numbers(runs / arm)
    assert any("eval/return_mean" in record for record in records)
    learned = [record for record in records if "loss/policy" in record]
    # Deviations begin with 1, and a smoke run hardly moves them.
    assert learned[0]["policy/entropy"] == pytest.approx(0.5 * np.log(2 * np.pi * np.e), abs=0.2)
    log_std = sdqn_lab.load(runs / arm).network.log_std
    assert log_std.shape == (1,)
    assert log_std.item() != 0.0


def test_a_loaded_agent_answers_actions_within_their_bounds(runs):
    player = sdqn_lab.load(runs / "pl_ppo")
    assert player.actions == ActionBox((-2.0,), (2.0,))
    seen = np.random.default_rng(0).standard_normal((50, 3)).astype(np.float32)
    actions = player.act(seen)
    assert actions.shape == (50, 1)
    assert (np.abs(actions) <= 2.0).all()
    assert np.array_equal(actions, player.act(seen))  # the mean, not a draw
    with pytest.raises(TypeError, match="algo=ppo has no action values"):
        player.q_values(seen)


def test_it_is_played_with_a_video_of_the_mean(echo, tmp_path, capsys):
    video = tmp_path / "policy.gif"
    assert play.main([str(echo), "--video", str(video), "--raster", "--trust"]) == 0
    assert video.stat().st_size > 1_000
    # The evaluation's episodes once more, without a draw.
    last = next(r for r in numbers(echo) if "eval/return_mean" in r)
    assert f"{last['eval/return_mean']:,.2f} [" in capsys.readouterr().out


@pytest.mark.slow  # 15 s; reports know nothing of actions
def test_arms_are_reported(runs, tmp_path):
    command = [str(runs), "--out", str(tmp_path), "--against", "neuron=relu"]
    assert report.main(command) == 0
    assert "pl_ppo" in (tmp_path / "index.html").read_text()


def test_an_export_is_refused_in_one_line(runs, tmp_path, capsys):
    assert export.main([str(runs / "pl_ppo"), "--nir", str(tmp_path / "out.nir")]) == 2
    assert "error: env=pendulum: has continuous actions" in capsys.readouterr().err
    assert not (tmp_path / "out.nir").exists()


def test_a_box_that_is_not_that_of_the_network_is_refused(runs, tmp_path, capsys):
    config_file = runs / "ppo" / "config.yaml"
    kept = config_file.read_text()
    config_file.write_text(kept.replace("id: Pendulum-v1", "id: MountainCarContinuous-v0"))
    try:
        assert play.main([str(runs / "ppo")]) == 2
    finally:
        config_file.write_text(kept)
    error = capsys.readouterr().err
    assert "error: env.id=MountainCarContinuous-v0: has actions [-1, 1], and the network" in error
    assert "[-2, 2]" in error


def test_a_killed_run_is_resumed_to_the_same_numbers(runs, tmp_path):
    words = [*SMALL, "experiment=pl_ppo", "checkpoint_every_minutes=0.002", *ARMS["pl_ppo"]]
    kill_at("act", 77, words, tmp_path)
    assert not any("eval/return_mean" in record for record in numbers(tmp_path))
    assert run(words, tmp_path) == 0
    assert numbers(tmp_path) == numbers(runs / "pl_ppo")


# What the network ends in


def built(*overrides):
    cfg = compose([*COMMON, *overrides])
    return build.build_network(cfg, (3,), ActionBox((-1.0,) * 5, (1.0,) * 5))


@pytest.mark.parametrize(
    ("readout", "shared"),
    [
        *(("mean_spikes", True), ("last_membrane", False), ("population", False)),
        # Its linear map is wider than what it answers.
        ("output_spikes readout.units=3", False),
    ],
)
def test_any_readout_makes_the_means_and_a_parameter_the_deviations(readout, shared):
    words = ["experiment=pl_ppo", *f"readout={readout}".split(), f"algo.shared_trunk={shared}"]
    network = built(*words)
    outputs = network(torch.randn(7, 3))
    assert outputs["policy"].shape == (7, 10)
    assert outputs["value"].shape == (7, 1)
    assert torch.equal(outputs["policy"][:, 5:], torch.zeros(7, 5))
    network.log_std.data[:] = torch.arange(5.0)
    assert torch.equal(network(torch.randn(2, 3))["policy"][:, 5:], torch.arange(5.0).expand(2, 5))


def test_the_map_of_the_means_starts_orthogonal_with_a_gain_of_a_hundredth():
    weight = built("experiment=ppo").heads["policy"].linear.weight
    torch.testing.assert_close(weight @ weight.T, 1e-4 * torch.eye(5))


def test_a_network_of_discrete_actions_has_no_deviations():
    network = build.build_network(compose(["env=cartpole", "algo=ppo"]), (4,), 2)
    assert network.log_std is None
    assert "log_std" not in network.state_dict()


def test_a_dead_network_is_found_although_its_deviations_have_a_gradient():
    cfg = compose([*COMMON, "experiment=pl_ppo", "norm=none", "neuron.v_threshold=1e6"])
    env = build.build_env(cfg, 2)
    network = build.initial_network(cfg, build.env_spec(env))
    assert isinstance(network, SpikingNetwork)
    seen = first_observations(env, 0)
    for parameter in network.parameters():
        parameter.data.zero_()
    assert probe(network, seen, 0).dead


# Settings and refusals


def test_ppo_takes_cleanrls_settings_of_continuous_control():
    cfg = config.compose(["env=pendulum", "experiment=pl_ppo"])
    expected = {"num_envs": 1, "rollout_steps": 2_048, "epochs": 10, "minibatches": 32}
    expected |= {"gamma": 0.99, "gae_lambda": 0.95, "clip_ratio": 0.2, "entropy_coef": 0.0}
    expected |= {"value_coef": 0.5, "max_grad_norm": 0.5, "learning_rate": 3e-4, "adam_eps": 1e-5}
    expected |= {"clip_values": True, "normalize_advantages": True, "shared_trunk": False}
    expected |= {"learning_rate_decay_steps": 1_000_000}
    assert {key: cfg.algo[key] for key in expected} == expected
    own = ["env=gymnasium", "env.id=Pendulum-v1", "env.family=continuous", "algo=ppo"]
    assert config.compose([*own, "budget.steps=1_000_000"]).algo == cfg.algo


@pytest.mark.parametrize("algo", ["ppo", "a2c", "reinforce"])
@pytest.mark.parametrize("budget", ["smoke", "short", "full"])
def test_every_policy_gradient_fits_every_budget(algo, budget):
    cfg = config.compose(["env=mountain_car_continuous", f"algo={algo}", f"budget={budget}"])
    arguments = build.algo_arguments(cfg)
    assert build.agent_class(cfg).updates_made(arguments, cfg.budget.steps) >= 5
    assert cfg.algo.iteration_steps <= cfg.budget.steps


@pytest.mark.parametrize("algo", ["dqn", "braincog", "qr_dqn", "pqn", "plasticity"])
def test_what_chooses_among_actions_is_refused_with_what_to_write(algo):
    (problem,) = problems(["env=pendulum", f"algo={algo}"])
    assert subject(problem) == f"algo={algo}"
    assert all(f"algo={name}" in remedy(problem) for name in ("ppo", "a2c", "reinforce"))
    own = ["env=gymnasium", "env.id=Pendulum-v1", f"algo={algo}"]
    own += ["readout=output_spikes"] if algo == "plasticity" else []
    (problem,) = problems(own)
    assert subject(problem) == f"algo={algo}"
    assert "finitely many" in problem.rule
    assert all(f"algo={name}" in remedy(problem) for name in ("ppo", "a2c", "reinforce"))


def test_the_file_of_a_network_says_what_its_actions_lie_in(runs):
    from safetensors import safe_open

    with safe_open(Path(runs) / "ppo" / "network_last.safetensors", framework="pt") as file:
        ends = json.loads(file.metadata()["ends"])
    assert ends["box"] == {"low": [-2.0], "high": [2.0]}
