"""Multiply-adds and bytes that a decision or an update cannot do without, counted by layer.

The count is that of the best program we know how to write, in float32 and without any saving by
sparseness: a constant input passes the first map and norm once, the head runs once, norm and neuron
are one operation that reads currents and writes spikes and keeps its membranes to itself, and the
backward pass works them out anew. Every tensor is read and written once by each operation.
"""

from collections.abc import Iterator
from math import prod
from typing import NamedTuple

from torch import nn

from sdqn_lab.networks.blocks import Block
from sdqn_lab.networks.network import SpikingNetwork

FLOAT = 4
OPTIMIZER_TENSORS = 7
"""Adam reads parameter, gradient and two moments, and writes all but the gradient."""


class Work(NamedTuple):
    """What one operation costs."""

    layer: str
    operation: str
    macs: int
    bytes: int


class Rates(NamedTuple):
    """What a machine can do in a second."""

    macs: float
    bytes: float


class _Layer(NamedTuple):
    """Sizes of one block: elements are those of one sample at one step."""

    name: str
    inputs: int
    outputs: int
    weights: int
    norm_weights: int
    macs: int
    steps_in: int
    steps_out: int


def decision(network: SpikingNetwork, observation_shape: tuple[int, ...], batch: int) -> list[Work]:
    """One forward pass of a batch."""
    return list(_forward(network, observation_shape, batch))


def update(
    network: SpikingNetwork, observation_shape: tuple[int, ...], batch: int, *, double: bool
) -> list[Work]:
    """One update: the target's forward, the online network's (two if double), backward, Adam."""
    forward = decision(network, observation_shape, batch) * (3 if double else 2)
    backward = list(_backward(network, observation_shape, batch))
    parameters = sum(parameter.numel() for parameter in network.parameters())
    optimizer = Work("all", "optimizer", 0, FLOAT * OPTIMIZER_TENSORS * parameters)
    return [*forward, *backward, optimizer]


def floor_ms(work: list[Work], rates: Rates) -> float:
    """The least time: each operation is bound by arithmetic or by memory, one after the other."""
    return 1e3 * sum(max(one.macs / rates.macs, one.bytes / rates.bytes) for one in work)


def _forward(network: SpikingNetwork, shape: tuple[int, ...], batch: int) -> Iterator[Work]:
    pixels = batch * prod(shape)
    yield Work("input", "scale", 0, pixels + FLOAT * pixels)
    for at in _layers(network, shape):
        read, made = batch * at.steps_in * at.inputs, batch * at.steps_in * at.outputs
        spikes = batch * at.steps_out * at.outputs
        macs = batch * at.steps_in * at.macs
        yield Work(at.name, "map", macs, FLOAT * (read + at.weights + made))
        yield Work(at.name, "norm, neuron", 0, FLOAT * (made + at.norm_weights + spikes))
    features, actions = _head(network)
    steps = _steps(network)
    yield Work("head", "mean", 0, FLOAT * batch * features * (steps + 1))
    values = batch * (features + actions)
    yield Work("head", "map", batch * features * actions, FLOAT * (values + features * actions))


def _backward(network: SpikingNetwork, shape: tuple[int, ...], batch: int) -> Iterator[Work]:
    features, actions = _head(network)
    tensors = batch * (features + actions) + features * actions
    yield Work("head", "map", 2 * batch * features * actions, 2 * FLOAT * tensors)
    for number, at in reversed(list(enumerate(_layers(network, shape)))):
        read, made = batch * at.steps_in * at.inputs, batch * at.steps_in * at.outputs
        spikes = batch * at.steps_out * at.outputs
        macs = batch * at.steps_in * at.macs
        tensors = spikes + 2 * made + 2 * at.norm_weights
        yield Work(at.name, "norm, neuron", 0, FLOAT * tensors)
        tensors = read + at.weights + made
        yield Work(at.name, "map, weights", macs, FLOAT * tensors)
        if number:  # nobody asks for the observation's gradient
            yield Work(at.name, "map, input", macs, FLOAT * tensors)


def _layers(network: SpikingNetwork, observation_shape: tuple[int, ...]) -> Iterator[_Layer]:
    steps = _steps(network)
    steps_in = 1 if network.encoder.constant else steps
    inputs = prod(observation_shape)
    for name, block in network.torso.named_children():
        assert isinstance(block, Block)
        outputs = prod(block.norm.normalized_shape)  # type: ignore[arg-type]
        yield _Layer(
            name,
            inputs,
            outputs,
            sum(parameter.numel() for parameter in block.linear.parameters()),
            sum(parameter.numel() for parameter in block.norm.parameters()),
            outputs * _fan_in(block.linear),
            steps_in,
            steps,
        )
        inputs, steps_in = outputs, steps


def _fan_in(linear: nn.Module) -> int:
    assert isinstance(linear, nn.Conv2d | nn.Linear)
    return linear.weight[0].numel()


def _head(network: SpikingNetwork) -> tuple[int, int]:
    linear = network.readout.linear
    return linear.in_features, linear.out_features


def _steps(network: SpikingNetwork) -> int:
    return network.time_window if network.temporal else 1
