"""Three verdicts before the first step, and a watch during training."""

import numpy as np
import pytest
import torch
from rich.console import Console

from sdqn_lab import config
from sdqn_lab.assembly import build
from sdqn_lab.runs.directory import RunDirectory
from sdqn_lab.training.cell import run_cell
from sdqn_lab.training.health import WAKE_WITHIN_UPDATES, Monitor, first_observations, probe
from tests.launching.sweeps import TINY, records


def examined(*overrides):
    cfg = config.compose([*overrides, "tracker=none"])
    env = build.build_env(cfg, 4)
    observations = first_observations(env, 7)
    network = build.initial_network(cfg, build.env_spec(env))
    env.close()
    return probe(network, observations, 7), network, observations


def test_the_lecture_network_is_dead_on_pong():
    health, _, _ = examined("experiment=pl_sdqn_lecture", "env=pong")
    assert health.dead
    assert all(layer.gradient_norm == 0.0 for layer in health.layers.values())


@pytest.mark.parametrize("fix", ["surrogate=atan", "surrogate=sigmoid", "neuron.v_threshold=0.5"])
def test_known_fixes_bring_a_gradient(fix):
    health, _, _ = examined("experiment=pl_sdqn_lecture", "env=pong", fix)
    assert not health.dead


def test_the_published_network_is_silent_at_its_hidden_layer_and_starves_its_head():
    health, _, _ = examined("experiment=pl_sdqn", "env=pong")
    assert not health.dead
    assert health.silent == ["hidden"]
    assert health.starved == ["head"]
    assert health.note.startswith("note: no unit of hidden fires yet and head gets no gradient yet")


def test_without_norm_layers_starve():
    health, _, _ = examined("experiment=sdqn", "env=pong")
    assert not health.dead
    assert "hidden" in health.silent
    assert "head" in health.starved


def test_the_ann_baseline_is_alive_everywhere():
    health, _, _ = examined("experiment=dqn", "env=pong")
    assert not (health.dead or health.starved or health.silent or health.note)


def test_the_probe_leaves_the_network_as_it_is():
    _, network, observations = examined("env=minatar_breakout", "norm=batchnorm")
    before = {key: value.clone() for key, value in network.state_dict().items()}
    probe(network, observations, 7)
    after = network.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_silent_network_is_not_dead_only_because_its_values_are_zero():
    """Q = 0 everywhere: a target of zero would show no gradient under any surrogate."""
    health, network, observations = examined("experiment=pl_sdqn", "env=pong")
    with torch.no_grad():
        assert network.eval()(torch.from_numpy(observations)).abs().max() == 0.0
    assert not health.dead


def test_first_observations_fill_the_stack():
    cfg = config.compose(["env=pong", "tracker=none"])
    env = build.build_env(cfg, 10)
    observations = first_observations(env, 0)
    env.close()
    assert observations.shape == (32, 4, 84, 84)
    assert np.all(observations[-10:].reshape(10, 4, -1).max(axis=2) > 0)


def rates(conv: float, hidden: float) -> dict[str, float]:
    return {"snn/firing_rate/conv1": conv, "snn/firing_rate/hidden": hidden, "loss/td": 0.0}


def test_a_layer_that_dies_is_reported_once_and_again_when_it_fires():
    monitor = Monitor()
    assert monitor.observe(rates(0.1, 0.2), 10) == []
    assert monitor.observe(rates(0.1, 0.0), 1_500) == [
        "hidden died: it fired before, and no unit fires after 1,500 updates"
    ]
    assert monitor.observe(rates(0.1, 0.0), 1_600) == []
    assert monitor.observe(rates(0.1, 0.1), 1_700) == ["hidden fires again"]


def test_a_layer_that_does_not_wake_is_reported_after_the_stated_number_of_updates():
    monitor = Monitor()
    assert monitor.observe(rates(0.1, 0.0), WAKE_WITHIN_UPDATES - 1) == []
    assert monitor.observe(rates(0.1, 0.0), WAKE_WITHIN_UPDATES) == [
        "hidden has not fired once in 2,000 updates"
    ]


def test_a_layer_that_wakes_late_fires_for_the_first_time():
    monitor = Monitor()
    monitor.observe(rates(0.1, 0.0), WAKE_WITHIN_UPDATES)
    assert monitor.observe(rates(0.1, 0.1), 3_000) == ["hidden fires for the first time"]
    assert monitor.observe(rates(0.1, 0.1), 3_100) == []


def test_output_neurons_may_be_silent():
    monitor = Monitor()
    assert monitor.observe({"snn/firing_rate/readout": 0.1}, 10) == []
    assert monitor.observe({"snn/firing_rate/readout": 0.0}, WAKE_WITHIN_UPDATES) == []


def test_what_was_reported_survives_a_resume():
    monitor, resumed = Monitor(), Monitor()
    monitor.observe(rates(0.1, 0.0), WAKE_WITHIN_UPDATES)
    resumed.load_state_dict(monitor.state_dict())
    assert resumed.observe(rates(0.1, 0.0), WAKE_WITHIN_UPDATES + 1) == []
    assert resumed.observe(rates(0.1, 0.1), WAKE_WITHIN_UPDATES + 2) == [
        "hidden fires for the first time"
    ]


def test_the_health_check_changes_no_number(tmp_path):
    found = []
    for health in ("warn", "off"):
        cfg = config.compose([*TINY, f"health='{health}'"])
        path = tmp_path / health
        assert run_cell(cfg, RunDirectory(path), Console(quiet=True)) == 0
        found.append(records(path))
        assert (path / "health.json").exists() == (health == "warn")
    assert found[0] == found[1]
    assert any("loss/td" in record for record in found[0])
