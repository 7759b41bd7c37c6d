import numpy as np
import pytest
from rich.console import Console

import sdqn_lab
from sdqn_lab import build, config
from sdqn_lab.agents.base import EnvSpec
from sdqn_lab.runs.directory import RunDirectory
from sdqn_lab.training.cell import run_cell

WORDS = ["env=minatar_breakout", "budget=smoke", "time_window=2", "tracker=none", "threads=1"]
WORDS += ["norm=batchnorm"]


@pytest.fixture
def trained(tmp_path):
    assert run_cell(config.compose(WORDS), RunDirectory(tmp_path), Console(quiet=True)) == 0
    return tmp_path


def test_a_loaded_agent_acts_by_its_values(trained):
    observations = np.random.default_rng(0).integers(0, 2, (5, 4, 10, 10)).astype(np.uint8)
    agent = sdqn_lab.load(trained)
    values = agent.q_values(observations)
    assert values.shape == (5, 6)
    assert agent.act(observations).tolist() == values.argmax(axis=1).tolist()
    assert np.array_equal(agent.q_values(observations), values)


def test_a_loaded_network_is_the_trained_one_not_a_fresh_one(trained):
    fresh = build.initial_network(config.compose(WORDS), EnvSpec((4, 10, 10), 6)).state_dict()
    loaded = sdqn_lab.load(trained).network.state_dict()
    best = sdqn_lab.load(trained, "best").network.state_dict()
    changed = [key for key in fresh if not fresh[key].equal(loaded[key])]
    assert "torso.conv1.norm.running_mean" in changed
    assert "readout.linear.weight" in changed
    assert all(best[key].equal(loaded[key]) for key in best)


def test_a_directory_without_a_network_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.yaml: not there"):
        sdqn_lab.load(tmp_path / "nothing")


def test_a_config_that_names_a_foreign_class_is_refused_not_called(trained):
    config_file = trained / "config.yaml"
    text = config_file.read_text()
    config_file.write_text(text.replace("sdqn_lab.spiking.neuron.LIF", "subprocess.Popen"))
    with pytest.raises(config.ConfigError, match="outside sdqn_lab"):
        sdqn_lab.load(trained)
    with pytest.raises(config.ConfigError, match="Popen is no Neuron"):
        sdqn_lab.load(trained, trust=True)
