"""The folded networks against a plain loop that runs everything at every step."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdqn_lab.networks.blocks import Block
from sdqn_lab.networks.mlp import MLP
from sdqn_lab.networks.nature import Nature
from sdqn_lab.networks.network import SpikingNetwork
from sdqn_lab.spiking.encoder import Delta, Direct, Encoder, Latency, Poisson
from sdqn_lab.spiking.neuron import ALIF, IF, LIF, PLIF, Neuron, ReLU, SpikingNeuron
from sdqn_lab.spiking.norm import BatchNorm, NoNorm, PopNorm
from sdqn_lab.spiking.readout import (
    DiscountedSpikes,
    FirstSpike,
    LastMembrane,
    MaxMembrane,
    MeanMembrane,
    MeanSpikes,
    MembraneReadout,
    Readout,
)
from tests.networks.helpers import NEURONS, NORMS, SPIKING, build, images, small

TIMED = [MeanMembrane, LastMembrane, MaxMembrane, DiscountedSpikes, FirstSpike]
COMBINATIONS = [
    pytest.param(neuron, norm, readout, id=f"{neuron}-{norm}-{readout.__name__}")
    for neuron in NEURONS
    for norm in NORMS
    for readout in [MeanSpikes, *(TIMED if neuron in SPIKING else [])]
]


@pytest.mark.parametrize(("neuron", "norm", "readout"), COMBINATIONS)
def test_folded_network_equals_the_plain_loop_forward_and_gradient(
    neuron: str, norm: str, readout: type[Readout]
) -> None:
    network = small(NEURONS[neuron], NORMS[norm], readout)
    assert_equals_plain_loop(network, images(4))


@pytest.mark.parametrize("neuron", NEURONS)
@pytest.mark.parametrize("norm", NORMS)
def test_folded_network_equals_the_plain_loop_in_evaluation(neuron: str, norm: str) -> None:
    network = small(NEURONS[neuron], NORMS[norm])
    network(images(4, seed=1))
    assert_equals_plain_loop(network.eval(), images(4))


@pytest.mark.parametrize("encoder", [Direct, Poisson, Latency, partial(Delta, frames=2)])
@pytest.mark.parametrize("norm", NORMS)
def test_every_encoder_equals_the_plain_loop(encoder: Callable[[], Encoder], norm: str) -> None:
    network = small(lively, NORMS[norm], encoder=encoder, observation_scale=1.25)
    assert_equals_plain_loop(network, images(4))


@pytest.mark.parametrize(
    ("torso", "shape", "sizes"),
    [
        (Nature, (2, 40, 36), {"channels": (3, 4, 5), "hidden": 12}),
        (Nature, (2, 40, 36), {"channels": (3, 4, 5), "hidden": 12, "normalize_hidden": True}),
        (MLP, (6,), {"hidden": 12, "layers": 3}),
        (MLP, (6,), {"hidden": 12, "layers": 1, "normalize_hidden": True}),
    ],
)
@pytest.mark.parametrize("norm", NORMS)
def test_every_torso_equals_the_plain_loop(
    torso: Callable[..., Any], shape: tuple[int, ...], sizes: dict[str, Any], norm: str
) -> None:
    network = build(lively, NORMS[norm], torso=torso, shape=shape, gain=8.0, **sizes).double()
    observations = torch.rand(4, *shape, generator=torch.Generator().manual_seed(0))
    assert_equals_plain_loop(network, observations)


@pytest.mark.parametrize("time_window", [1, 2, 9])
def test_every_time_window_equals_the_plain_loop(time_window: int) -> None:
    network = small(lively, BatchNorm, time_window=time_window)
    assert_equals_plain_loop(network, images(4))


def test_the_first_map_and_norm_run_once_under_constant_input() -> None:
    network = small(LIF, PopNorm, time_window=9)
    seen: list[int] = []
    for name in ("torso.conv1.linear", "torso.conv1.norm"):
        network.get_submodule(name).register_forward_hook(
            lambda _module, inputs, _out: seen.append(inputs[0].shape[0])
        )
    network(images(4))
    assert seen == [4, 1]  # 1 x 4 folded, then a single entry that stands for all nine steps


def lively() -> LIF:
    """Fires in deep and in short networks too."""
    return LIF(tau=1.25, v_threshold=0.3)


def assert_equals_plain_loop(network: SpikingNetwork, observations: Tensor) -> None:
    plain = copy.deepcopy(network)
    weights = torch.tensor([[0.3, -1.0, 2.0]], dtype=torch.float64)
    q = network(observations, generator=torch.Generator().manual_seed(3))
    expected = plain_loop(plain, observations, torch.Generator().manual_seed(3))
    torch.testing.assert_close(q, expected, rtol=1e-9, atol=1e-9)
    (q * weights).sum().backward()
    (expected * weights).sum().backward()
    assert q.abs().max() > 1e-3, "a silent network would prove nothing"
    for (name, ours), theirs in zip(network.named_parameters(), plain.parameters(), strict=True):
        assert ours.grad is not None, name
        assert theirs.grad is not None, name
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-8, atol=1e-8)
    first = next(network.parameters()).grad
    assert first is not None
    assert first.abs().max() > 1e-6, "no gradient would prove nothing"
    for ours, theirs in zip(network.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def plain_loop(network: SpikingNetwork, observations: Tensor, generator: torch.Generator) -> Tensor:
    """Q of the whole network run once per step, with explicit membranes."""
    x = observations.double() / network.observation_scale
    steps = network.time_window if network.temporal else 1
    inputs = [x] * steps
    if isinstance(network.encoder, Poisson):
        draws = torch.rand(steps, *x.shape, generator=generator, dtype=x.dtype)
        inputs = [(draw < x).double() for draw in draws]
    elif isinstance(network.encoder, Latency):
        times = ((steps - 1) * (1 - x)).round()
        inputs = [((times == t) & (x >= network.encoder.threshold)).double() for t in range(steps)]
    elif isinstance(network.encoder, Delta):
        changes = x[:, 1:] - x[:, :-1]
        size = network.encoder.threshold
        inputs = [torch.cat([changes >= size, changes <= -size], 1).double()] * steps
    membranes: dict[str, Tensor] = {}
    answers = []
    for step_input in inputs:
        h = step_input
        for name, block in network.torso.named_children():
            assert isinstance(block, Block)
            h = h.flatten(1) if name.startswith("hidden") else h
            current = plain_norm(block.norm, block.linear(h))
            h = plain_neuron(block.neuron, current, membranes, name)
        answers.append(h)
    return plain_readout(network.readout, answers)


def plain_norm(norm: nn.Module, current: Tensor) -> Tensor:
    if isinstance(norm, NoNorm):
        return current
    if isinstance(norm, PopNorm):
        dims = tuple(range(1, current.dim()))
        centred = current - current.mean(dims, keepdim=True)
        var = centred.square().mean(dims, keepdim=True)
        return norm.weight * centred / (var + norm.eps).sqrt() + norm.bias
    assert isinstance(norm, BatchNorm)
    return F.batch_norm(
        current,
        norm.running_mean,
        norm.running_var,
        norm.weight,
        norm.bias,
        norm.training,
        norm.momentum,
        norm.eps,
    )


def plain_neuron(neuron: Neuron, x: Tensor, membranes: dict[str, Tensor], layer: str) -> Tensor:
    if isinstance(neuron, ReLU):
        return x.clamp(min=0)
    assert isinstance(neuron, SpikingNeuron)
    v = membranes.get(layer, torch.full_like(x, neuron.v_reset))
    if isinstance(neuron, IF):
        v = v + x
    elif isinstance(neuron, PLIF):
        v = v * (1 - neuron.w.sigmoid()) + x * neuron.w.sigmoid()
    else:
        assert isinstance(neuron, LIF)
        v = v * (1 - 1 / neuron.tau) + x / neuron.tau
    threshold: Tensor | float = neuron.v_threshold
    if neuron.learn_threshold:
        assert neuron.log_threshold is not None
        learned = neuron.v_reset + neuron.log_threshold.exp()
        threshold = learned.reshape(1, -1, *[1] * (v.dim() - 2))
    if isinstance(neuron, ALIF):
        raised = membranes.get(f"{layer}/raised", torch.zeros_like(v))
        raised = raised - raised / neuron.tau_adapt
        threshold = threshold + raised
    spike = neuron.surrogate(v - threshold)
    if isinstance(neuron, ALIF):
        membranes[f"{layer}/raised"] = raised + neuron.beta * spike
    s = spike.detach() if neuron.detach_reset else spike
    if neuron.reset == "soft":
        membranes[layer] = v - threshold * s
    else:
        membranes[layer] = v + (neuron.v_reset - v) * s
    return spike


def plain_readout(readout: Readout, answers: list[Tensor]) -> Tensor:
    if isinstance(readout, FirstSpike):
        silent = torch.ones_like(answers[0])
        worth = torch.zeros_like(silent)
        for t, spikes in enumerate(answers):
            worth = worth + silent * spikes * (1 - t / len(answers))
            silent = silent * (1 - spikes)
        return readout.linear(worth)
    outputs = [readout.linear(answer) for answer in answers]
    if isinstance(readout, MeanSpikes):
        return sum(outputs, torch.zeros_like(outputs[0])) / len(outputs)
    assert isinstance(readout, MembraneReadout)
    if isinstance(readout, DiscountedSpikes):
        terms = [output * (1 - 1 / readout.tau) ** t for t, output in enumerate(outputs)]
        return sum(terms, torch.zeros_like(outputs[0])) / readout.tau
    v = torch.zeros_like(outputs[0])
    potentials = []
    for output in outputs:
        v = v * (1 - 1 / readout.tau) + output / readout.tau
        potentials.append(v)
    if isinstance(readout, LastMembrane):
        return potentials[-1]
    stacked = torch.stack(potentials)
    return stacked.amax(0) if isinstance(readout, MaxMembrane) else stacked.mean(0)
