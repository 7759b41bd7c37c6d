"""A trained agent out of its run directory."""

import numpy as np
import pytest

import sdqn_lab
from sdqn_lab import config
from sdqn_lab.agents.base import EnvSpec
from sdqn_lab.assembly import build
from sdqn_lab.exporting.session import facts
from tests.watching.runs import COMMON, RUNS, change

pytestmark = pytest.mark.xdist_group("play")


def test_a_loaded_agent_acts_by_its_values(trained):
    observations = np.random.default_rng(0).integers(0, 2, (5, 4, 10, 10)).astype(np.uint8)
    agent = sdqn_lab.load(trained("batchnorm"))
    values = agent.q_values(observations)
    assert values.shape == (5, 6)
    assert agent.act(observations).tolist() == values.argmax(axis=1).tolist()
    assert np.array_equal(agent.q_values(observations), values)


def test_a_loaded_network_is_the_trained_one_not_a_fresh_one(trained):
    run = trained("batchnorm")
    cfg = config.compose([*RUNS["batchnorm"], *COMMON])
    fresh = build.initial_network(cfg, EnvSpec((4, 10, 10), 6)).state_dict()
    loaded = sdqn_lab.load(run).network.state_dict()
    best = sdqn_lab.load(run, "best").network.state_dict()
    changed = [key for key in fresh if not fresh[key].equal(loaded[key])]
    assert "torso.conv1.norm.running_mean" in changed
    assert "readout.linear.weight" in changed
    assert all(best[key].equal(loaded[key]) for key in best)


def test_a_loaded_agent_normalizes_by_what_training_has_seen(trained):
    agent = sdqn_lab.load(trained("normalized"))
    raw = np.array([[0.1, -0.5, 0.02, 60.0]], np.float32)
    state = agent.normalizer.moments.state_dict()
    by_hand = np.clip((raw - state["mean"]) / np.sqrt(state["var"] + 1e-8), -3, 3)
    assert by_hand[0, 3] == 3 and np.abs(by_hand[0, :3]).max() < 3
    values = agent.policy.outputs(by_hand.astype(np.float32)).numpy()
    assert np.array_equal(agent.q_values(raw), values)
    assert agent.act(raw) == values.argmax()
    raw_shown = build.build_env(config.compose(["env=cartpole"]), 3).reset(9)
    assert np.array_equal(agent.make_env(3).reset(9), agent.normalizer(raw_shown))


def test_an_export_tells_a_host_how_to_normalize(trained):
    agent = sdqn_lab.load(trained("normalized"))
    known = facts(agent, ("left", "right"))
    raw = np.array([[0.1, -0.5, 0.02, 60.0]], np.float32)
    y = (raw - known["observation_mean"]) / known["observation_deviation"]
    clipped = np.clip(y, -known["observation_clip"], known["observation_clip"])
    assert agent.normalizer(raw) == pytest.approx(clipped)
    assert known["observation_clip"] == 3


def test_a_directory_without_a_network_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing/config\.yaml"):
        sdqn_lab.load(tmp_path / "nothing")


def test_a_config_that_names_a_foreign_class_is_refused_not_called(copied):
    run = copied("batchnorm")
    change(run, r"sdqn_lab\.spiking\.neuron\.LIF", "subprocess.Popen")
    for trust in (False, True):
        with pytest.raises(config.ConfigError, match=r"neuron\._target_=subprocess\.Popen"):
            sdqn_lab.load(run, trust=trust)


def test_another_protocol_replaces_the_runs_values(trained):
    player = sdqn_lab.load(trained("atari"))
    other = player.under("nature")
    assert (other.protocol.eval_episodes, other.protocol.noop_max) == (30, 30)
    assert other.protocol.sticky_actions == 0
    assert other.network is player.network
    assert player.cfg.choices.protocol == "braincog"
    assert player.protocol.eval_episodes == 1
