"""What is kept of episodes: scores, decisions, activity, observations."""

import numpy as np
import pytest
import torch

import sdqn_lab
from sdqn_lab.networks.blocks import Block
from sdqn_lab.watching.episodes import MAX_UNITS, Sample, layer_activity, shown_units
from tests.watching.runs import episodes, last_evaluation

pytestmark = pytest.mark.xdist_group("play")


@pytest.mark.parametrize(
    "name",
    [
        *("minatar", "poisson", "relu", "cartpole", "normalized"),
        pytest.param("atari", marks=pytest.mark.slow),
    ],
)
def test_the_episodes_are_those_of_the_runs_last_evaluation(name, trained):
    recorded = last_evaluation(trained(name))
    _, _, played = episodes(trained(name), len(recorded["eval/returns"]))
    assert played.returns == recorded["eval/returns"]
    assert np.mean(played.lengths_steps) == recorded["eval/length_steps_mean"]


@pytest.mark.parametrize("name", ["minatar", "atari", "relu"])
def test_the_activity_of_a_decision_is_the_networks(name, trained):
    player, start, played = episodes(trained(name), 3, with_layers=True)
    network, steps = player.network, played.time_window
    observation = player.make_env(3).reset(start.env_seed)[:1]
    x = torch.as_tensor(observation).float() / network.observation_scale
    activity = network.encoder(x, steps, None)
    first = played.first[0]
    blocks = [block for block in network.torso.modules() if isinstance(block, Block)]
    assert len(first.layers) == len(blocks)
    with torch.no_grad():
        for block, layer in zip(blocks, first.layers.values(), strict=True):
            if block is network.torso.hidden:
                activity = activity.flatten(2)
            activity = block(activity, steps)
            units = activity[:, 0].flatten(1)
            assert layer.units == units.shape[1]
            assert layer.shown.shape == (steps, min(MAX_UNITS, layer.units))
            expected = units[:, shown_units(layer.units)].numpy()
            assert np.allclose(layer.shown, expected, atol=1e-6)
            assert layer.rate == pytest.approx((units > 0).float().mean().item(), abs=1e-6)
            assert not network.temporal or set(np.unique(layer.shown)) <= {0, 1}
        values = network.readout(activity)[0].numpy()
    assert np.allclose(first.values, values, atol=1e-5)


def test_keeping_activity_changes_no_value_and_ends_with_its_context(trained):
    player = sdqn_lab.load(trained("minatar"))
    observations = player.make_env(4).reset(3)
    before = player.q_values(observations)
    with layer_activity(player.network) as layers:
        assert np.array_equal(player.q_values(observations), before)
    assert list(layers) == ["conv1", "hidden"]
    player.q_values(observations[::-1].copy(), 7)
    assert layers["conv1"].shown.shape[0] == 4


@pytest.mark.parametrize("count", [1, 7, 8, 9, 40, 1000])
def test_a_sample_is_spread_over_the_whole_stream(count):
    sample = Sample(8)
    for number in range(count):
        sample.add(np.array([[number]]))
    taken = sample.taken()[:, 0]
    assert 1 <= len(taken) <= 8
    assert len(taken) >= min(count, 4)
    assert taken[0] == 0
    assert len(set(np.diff(taken))) <= 1
    assert count - taken[-1] <= 2 * (taken[1] if len(taken) > 1 else 1)
