"""What a probe counts, against counts by hand; what it shows, against the network's own forward."""

import copy
import json
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sdqn_lab import config
from sdqn_lab.analysis import forms
from sdqn_lab.assembly.build import build_network
from sdqn_lab.checks.refused import Refused
from sdqn_lab.config.overrides import options
from sdqn_lab.networks.blocks import Convolution, ConvolutionalTorso
from sdqn_lab.networks.mlp import MLP
from sdqn_lab.networks.nature import Nature
from sdqn_lab.networks.network import SpikingNetwork
from sdqn_lab.networks.probe import BINS, LIMIT, LayerProbe, fan_out, multiply_adds, probe
from sdqn_lab.spiking.encoder import Poisson
from sdqn_lab.spiking.neuron import IF, LIF, Neuron, ReLU, SpikingNeuron
from sdqn_lab.spiking.norm import BatchNorm, NoNorm
from sdqn_lab.spiking.readout import LastMembrane
from sdqn_lab.spiking.stats import SpikeRecorder
from tests.networks.helpers import NEURONS, NORMS, SPIKING, build, images

ZERO = BINS // 2
"""The bin that begins at 0; 8 bins are one threshold wide."""


class Halving(SpikingNeuron):
    """A user's neuron: it defines `charge` and nothing else."""

    def charge(self, x: Tensor, v: Tensor) -> Tensor:
        return v / 2 + x


ALL = {**NEURONS, "user": Halving}


def connected(neuron: Callable[[], Neuron], weights: list[list[float]], **options: Any) -> Any:
    """A fully connected network with these weights, no norm, no bias, and one action."""
    inputs, hidden = len(weights[0]), len(weights)
    sizes = {"hidden": hidden, "layers": 1, "num_actions": 1}
    network = build(neuron, NoNorm, torso=MLP, shape=(inputs,), **sizes, **options)
    linear = network.get_submodule("torso.hidden1.linear")
    assert isinstance(linear, nn.Linear)
    linear.weight.data = torch.tensor(weights)
    linear.bias.data.zero_()
    return network


def convolutional(convolution: Convolution, pixels: int, **options: Any) -> SpikingNetwork:
    torso = partial(
        ConvolutionalTorso,
        convolutions=[convolution],
        hidden=1,
        normalize_hidden=False,
        name="test",
    )
    return build(IF, NoNorm, torso=torso, shape=(1, pixels, pixels), **options)


def single_pixels(pixels: int) -> Tensor:
    """Images (pixels * pixels, 1, 1, pixels, pixels), each with one pixel on."""
    return torch.eye(pixels**2).view(-1, 1, 1, pixels, pixels)


def only(share: dict[int, float]) -> list[float]:
    """A histogram with these bins, counted from 0, and no others."""
    return [share.get(at - ZERO, 0.0) for at in range(BINS)]


# Operations


def test_a_report_takes_histograms_for_what_a_probe_counts() -> None:
    assert (forms.BINS, forms.LIMIT) == (BINS, LIMIT)


def test_a_network_of_2_3_1_units_costs_what_a_calculation_by_hand_says() -> None:
    """IF units with threshold 1, two steps.

    First sample: currents 2, 0.6, 0; spikes 1 1, 0 1, 0 0. Second: 2, 0.6, 0.6; 1 1, 0 1, 0 1.
    """
    network = connected(IF, [[2.0, 0.0], [0.6, 0.0], [0.0, 0.3]], time_window=2)
    seen = probe(network, torch.tensor([[1.0, 0.0], [1.0, 2.0]]))
    hidden, head = seen.layers
    assert (seen.temporal, seen.time_window, seen.samples) == (True, 2, 2)
    assert (hidden.name, hidden.parameters, hidden.synapses) == ("hidden1", 3 * 2 + 3, 3 * 2)
    assert (hidden.analog, hidden.passes, hidden.operations) == (True, 1, (1 * 3 + 2 * 3) / 2)
    assert hidden.firing_rate == (3 + 4) / (2 * 2 * 3)
    assert (head.name, head.parameters, head.synapses) == ("head", 3, 3)
    assert (head.analog, head.passes, head.operations) == (False, 2, (3 + 4) / 2)
    assert head.firing_rate is head.current is head.normalized is head.membrane is None


@pytest.mark.parametrize(
    ("convolution", "leaving"),
    [
        (Convolution(1, kernel=2, stride=1), [1, 2, 1, 2, 4, 2, 1, 2, 1]),
        (Convolution(5, kernel=2, stride=1), [5, 10, 5, 10, 20, 10, 5, 10, 5]),
        (Convolution(1, kernel=2, stride=2), [1, 1, 0, 1, 1, 0, 0, 0, 0]),  # the rest is not seen
        (Convolution(1, kernel=1, stride=2), [1, 0, 1, 0, 0, 0, 1, 0, 1]),
    ],
)
def test_a_pixel_of_a_3x3_image_costs_the_kernels_that_cover_it(
    convolution: Convolution, leaving: list[int]
) -> None:
    network = convolutional(convolution, pixels=3)
    cost = [probe(network, image).layers[0].operations for image in single_pixels(3)]
    assert cost == leaving
    together = probe(network, single_pixels(3).flatten(0, 1)).layers[0]
    assert together.operations == sum(leaving) / 9
    assert together.synapses == sum(leaving)


def test_fan_out_knows_padding_groups_and_every_other_linear_map() -> None:
    padded = fan_out(nn.Conv2d(1, 1, 3, padding=1), (1, 3, 3))
    assert padded.tolist() == [[[4, 6, 4], [6, 9, 6], [4, 6, 4]]]
    assert fan_out(nn.Conv1d(4, 6, 1, groups=2), (4, 2)).tolist() == [[3, 3]] * 4
    assert fan_out(nn.Linear(2, 7), (2,)).tolist() == [7, 7]


def test_spikes_of_a_hidden_convolution_cost_their_own_fan_out() -> None:
    """One pixel that fires at each of three steps, seen by both units of the hidden layer."""
    network = convolutional(Convolution(1, kernel=1, stride=1), pixels=3, time_window=3)
    conv = network.get_submodule("torso.conv1.linear")
    assert isinstance(conv, nn.Conv2d)
    conv.weight.data.fill_(2.0)
    assert conv.bias is not None
    conv.bias.data.zero_()
    layers = probe(network, single_pixels(3)[4]).layers
    assert [layer.operations for layer in layers[:2]] == [1, 3 * 1]
    assert [layer.analog for layer in layers] == [True, False, False]
    assert [layer.passes for layer in layers] == [1, 3, 3]
    assert layers[0].firing_rate == 1 / 9


def test_poisson_spikes_are_counted_at_every_step() -> None:
    """Probabilities 0 and 1, so nothing is left to chance."""
    network = convolutional(
        Convolution(1, kernel=2, stride=1), pixels=3, time_window=4, encoder=Poisson
    )
    first = probe(network, single_pixels(3)[4]).layers[0]
    assert (first.analog, first.passes, first.operations) == (False, 4, 4 * 4)


def test_zeros_of_the_ann_baseline_are_skipped_as_zeros_of_spikes_are() -> None:
    """Currents 1, -1, 0 and 1, 5, 0: one active unit, then two."""
    network = connected(ReLU, [[1.0, 0.0], [-1.0, 6.0], [0.0, 0.0]], time_window=7)
    seen = probe(network, torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
    hidden, head = seen.layers
    assert (seen.temporal, seen.time_window) == (False, 1)
    assert [layer.analog for layer in seen.layers] == [True, True]
    assert [layer.passes for layer in seen.layers] == [1, 1]
    assert hidden.operations == (1 * 3 + 2 * 3) / 2
    assert head.operations == (1 + 2) / 2
    assert hidden.firing_rate == (1 + 2) / (2 * 3)
    assert hidden.membrane is None


def test_an_ann_baseline_behind_poisson_spikes_multiplies_only_from_its_second_layer_on() -> None:
    network = connected(ReLU, [[1.0], [1.0]], encoder=Poisson)
    seen = probe(network, torch.ones(3, 1))
    assert [(x.analog, x.passes, x.operations) for x in seen.layers] == [
        (False, 1, 2),
        (True, 1, 2),
    ]


def test_a_single_step_runs_every_map_once() -> None:
    network = connected(IF, [[2.0], [0.5]], time_window=9)
    seen = probe(network, torch.ones(2, 1), time_window=1)
    assert seen.time_window == 1
    assert [(x.passes, x.operations) for x in seen.layers] == [(1, 2), (1, 1)]


def test_a_head_that_integrates_is_charged_for_the_same_spikes() -> None:
    """One unit fires at all four steps, one at the third alone: 0.5, 1.0, 1.5."""
    network = connected(IF, [[2.0], [0.5]], readout=LastMembrane, time_window=4)
    head = probe(network, torch.ones(2, 1)).layers[-1]
    assert (head.analog, head.passes, head.operations) == (False, 4, 4 + 1)


def test_dense_counts_of_the_nature_network_are_those_of_its_sizes() -> None:
    network = build(torso=Nature, shape=(4, 84, 84), num_actions=6, time_window=2)
    layers = {layer.name: layer for layer in probe(network, torch.ones(1, 4, 84, 84)).layers}
    dense = [32 * 400 * 256, 64 * 81 * 512, 64 * 49 * 576, 512 * 3136, 6 * 512]
    assert list(layers) == ["conv1", "conv2", "conv3", "hidden", "head"]
    assert [layer.synapses for layer in layers.values()] == dense
    assert multiply_adds(network, (4, 84, 84)) == dict(zip(layers, dense, strict=True))
    parameters = sum(parameter.numel() for parameter in network.parameters())
    assert parameters == sum(layer.parameters for layer in layers.values())


# Potentials


def constant(neuron: Callable[[], Neuron], current: float, steps: int) -> LayerProbe:
    """One unit under a constant current."""
    return probe(connected(neuron, [[current]], time_window=steps), torch.ones(1, 1)).layers[0]


def test_a_constant_current_charges_the_membrane_as_its_closed_form_says() -> None:
    """v_t / threshold = 0.9 (1 - 2^-t): 0.45, 0.675, 0.7875, in bins of an eighth."""
    layer = constant(lambda: LIF(tau=2.0, v_threshold=2.0), 1.8, 3)
    assert layer.current == layer.normalized == only({7: 1.0})
    assert layer.membrane == pytest.approx(only({3: 1 / 3, 5: 1 / 3, 6: 1 / 3}))
    assert layer.firing_rate == 0


@pytest.mark.parametrize(
    ("reset", "shares"),
    [
        ("hard", {6: 1 / 2, 12: 1 / 2}),  # 0.75, 1.5 and a spike, 0.75, 1.5 and a spike
        ("soft", {6: 1 / 4, 12: 1 / 4, 10: 1 / 4, 8: 1 / 4}),  # 0.75, 1.5, then 1.25, then 1.0
    ],
)
def test_the_membrane_is_shown_before_its_reset(reset: str, shares: dict[int, float]) -> None:
    layer = constant(lambda: IF(reset=reset), 0.75, 4)
    assert layer.membrane == pytest.approx(only(shares))


def test_the_outer_bins_take_what_lies_beyond_and_a_bin_holds_its_lower_edge() -> None:
    currents = [-1e9, -4.0, -1e-9, 0.0, 0.125, 3.999, 4.0, 1e9, float("inf"), float("nan")]
    layer = probe(connected(IF, [[current] for current in currents]), torch.ones(1, 1)).layers[0]
    share = {-32: 2, -1: 1, 0: 1, 1: 1, 31: 5}
    assert layer.current == only({at: count / 10 for at, count in share.items()})


@pytest.mark.parametrize("neuron", ALL)
@pytest.mark.parametrize("norm", NORMS)
def test_firing_rates_are_those_of_the_networks_own_forward(neuron: str, norm: str) -> None:
    network = build(ALL[neuron], NORMS[norm], channels=(3, 4), gain=9.0).eval()
    with SpikeRecorder(network) as recorder:
        network(images(6))
    seen = {x.name: x.firing_rate for x in probe(network, images(6)).layers}
    assert seen == {"head": None} | {n: x.firing_rate for n, x in recorder.layers().items()}
    assert seen["hidden"]


@pytest.mark.parametrize("neuron", [*(name for name in SPIKING if name != "alif"), "user"])
@pytest.mark.parametrize("norm", NORMS)
def test_the_share_of_membranes_above_threshold_is_the_firing_rate(neuron: str, norm: str) -> None:
    """The membranes come from the plain steps, the spikes from whichever kernel runs.

    An adaptive threshold is not where the histogram's unit is.
    """
    network = build(ALL[neuron], NORMS[norm], channels=(3, 4), gain=9.0)
    for layer in probe(network, images(6)).layers[:-1]:
        assert layer.membrane is not None
        assert sum(layer.membrane[ZERO + 8 :]) == pytest.approx(layer.firing_rate, abs=1e-3)


def test_normalized_currents_are_shown_as_the_norm_of_evaluation_leaves_them() -> None:
    """Running mean 0 and variance 1, weight 1 and bias 0: as if there were no norm."""
    network = build(LIF, BatchNorm, gain=4.0)
    layer = probe(network, images(4)).layers[0]
    assert layer.current is not None
    assert layer.normalized == pytest.approx(layer.current, abs=0.01)
    norm = network.get_submodule("torso.conv1.norm")
    assert isinstance(norm, BatchNorm)
    norm.bias.data.fill_(100.0)
    assert probe(network, images(4)).layers[0].normalized == only({31: 1.0})


# Every option, and nothing moved


PLACES: dict[str, tuple[int, ...]] = {
    "minatar_breakout": (4, 10, 10),
    "cartpole": (4,),
    "pong": (4, 84, 84),
}
GROUPS = ("neuron", "norm", "surrogate", "encoder", "readout")
OPTIONS = [f"{group}={option}" for group in GROUPS for option in options(group)]
OPTIONS += ["precision=bf16", "backend=reference", "network.normalize_hidden=true"]
WHERE = {"encoder=delta": "pong", "encoder=population": "cartpole"}
COMBINATIONS = [
    *((option, WHERE.get(option, "minatar_breakout")) for option in OPTIONS),
    *((option, env) for option in OPTIONS[:4] for env in ("cartpole", "pong")),
]


@pytest.mark.parametrize(("option", "env"), COMBINATIONS)
def test_every_option_can_be_probed_and_its_histograms_add_up(option: str, env: str) -> None:
    cfg = config.compose([f"env={env}", "time_window=2", option])
    network = build_network(cfg, PLACES[env], 3)
    seen = probe(network, torch.rand(2, *PLACES[env]) * network.observation_scale)
    json.dumps(asdict(seen), allow_nan=False)
    network(torch.ones(2, *PLACES[env])).sum().backward()
    # A population in a head shares its gradient's norm.
    names = [layer.name for layer in seen.layers if not layer.name.endswith(".population")]
    assert names == list(network.gradient_norms())
    for layer in seen.layers[:-1]:
        for shares in (layer.current, layer.normalized, layer.membrane):
            assert shares is None or sum(shares) == pytest.approx(1)
        assert (layer.membrane is None) == (option == "neuron=relu")
        assert layer.operations <= layer.synapses * layer.passes


def state(network: SpikingNetwork) -> dict[str, Any]:
    tensors = {name: value.tolist() for name, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    hooks = [len(module._forward_hooks) for module in network.modules()]
    return {"tensors": tensors, "modes": modes, "hooks": hooks}


def test_a_probe_moves_neither_the_network_nor_any_random_stream() -> None:
    network = build(LIF, BatchNorm, encoder=Poisson, gain=4.0).train()
    network.get_submodule("torso.hidden").eval()
    own = torch.Generator().manual_seed(5)
    before = copy.deepcopy(state(network)), torch.get_rng_state(), own.get_state()
    probe(network, images(4))
    probe(network, images(4), generator=own)
    assert state(network) == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    assert torch.equal(own.get_state(), before[2])
    assert all(parameter.grad is None for parameter in network.parameters())
    assert network.get_submodule("torso.conv1.neuron").fusible


def test_a_generator_decides_what_a_random_encoder_draws() -> None:
    network, half = connected(IF, [[2.0]], encoder=Poisson, time_window=64), torch.full((4, 1), 0.5)

    def drawn(seed: int) -> float:
        own = torch.Generator().manual_seed(seed)
        return probe(network, half, generator=own).layers[0].operations

    assert drawn(0) == drawn(0)
    assert len({drawn(seed) for seed in range(5)}) > 1


def test_a_probe_without_observations_or_time_is_refused() -> None:
    network = connected(IF, [[2.0]])
    with pytest.raises(Refused) as error:
        probe(network, torch.ones(0, 1))
    assert error.value.key == "observations"
    with pytest.raises(Refused) as error:
        probe(network, torch.ones(1, 1), time_window=0)
    assert error.value.key == "time_window"


def test_a_population_in_a_head_is_a_layer_and_the_head_the_weights_behind_it() -> None:
    network = network_of("readout=population", "readout.units=3")
    seen = probe(network, torch.rand(2, 4))
    *_, layer, head = seen.layers
    assert (layer.name, head.name) == ("readout.population", "head")
    assert (layer.synapses, head.synapses) == (16 * 2 * 3, 2 * 3)
    assert sum(one.parameters for one in seen.layers) == sum(
        parameter.numel() for parameter in network.parameters()
    )
    assert layer.firing_rate is not None and layer.firing_rate > 0
    # Each spike of a population has one synapse, to its own output.
    assert head.operations == pytest.approx(layer.firing_rate * seen.time_window * 2 * 3)


def network_of(*overrides: str) -> SpikingNetwork:
    words = ["env=cartpole", "network.hidden=16", "time_window=4", "tracker=none", *overrides]
    return build_network(config.compose(words), (4,), 2)
