"""Multiply-adds and bytes that decisions and updates cannot do without, and the floor they set.

The count is that of the best program we know how to write, in float32 and without any saving by
sparseness: a constant input passes the first map and norm once, the head runs once, norm and neuron
are one operation that reads currents and writes spikes and keeps its membranes to itself, and the
backward pass works them out anew. Every tensor is read and written once by each operation.
"""

from collections.abc import Mapping
from math import prod
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F

from sdqn_lab.benchmarks.timing import Spread, Workload
from sdqn_lab.networks.blocks import Block
from sdqn_lab.networks.network import SpikingNetwork
from sdqn_lab.networks.probe import probe

FLOAT = 4
# Adam reads parameter, gradient and two moments, and writes all but the gradient.
OPTIMIZER_TENSORS = 7
# 128 MiB: more than caches hold.
COPY_FLOATS = 2**25
# The second convolution of the nature network at batch 32, T = 16. A plain product of the same size
# comes out at a third of its speed on some CPUs: no floor.
IMAGES, KERNEL, STRIDE = (512, 32, 20, 20), (64, 32, 4, 4), 2
CONVOLUTION_MACS = 512 * (64 * 9 * 9) * (32 * 4 * 4)


class Work(NamedTuple):
    """What one operation costs."""

    layer: str
    operation: str
    macs: float
    bytes: float


class Rates(NamedTuple):
    """What a machine can do in a second."""

    macs: float
    bytes: float


def decision(network: SpikingNetwork, observation_shape: tuple[int, ...], batch: int) -> list[Work]:
    """One forward pass of a batch."""
    return _passes(network, observation_shape, batch)[0]


def update(
    network: SpikingNetwork, observation_shape: tuple[int, ...], batch: int, forwards: int
) -> list[Work]:
    """One update: the forward passes of all its networks, a backward pass, Adam."""
    forward, backward = _passes(network, observation_shape, batch)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    optimizer = Work("all", "optimizer", 0, FLOAT * OPTIMIZER_TENSORS * parameters)
    return [*forward * forwards, *backward, optimizer]


def shares(work: list[Work], share: float) -> list[Work]:
    """A part of some work, as one agent step has its part of a decision and of an update."""
    return [one._replace(macs=one.macs * share, bytes=one.bytes * share) for one in work]


def _passes(
    network: SpikingNetwork, shape: tuple[int, ...], batch: int
) -> tuple[list[Work], list[Work]]:
    """A forward pass, and the backward pass after it."""
    head = network.readout.linear
    # Zeros do: nothing but sizes is read.
    seen = probe(network, torch.zeros(1, *shape, device=head.weight.device))
    inputs, spikes = prod(shape), 0
    forward = [Work("input", "scale", 0, batch * inputs * (1 + FLOAT))]
    backward: list[Work] = []
    for layer in seen.layers[:-1]:
        block = cast(Block, network.torso.get_submodule(layer.name))
        weights, norm = (
            sum(parameter.numel() for parameter in module.parameters())
            for module in (block.linear, block.norm)
        )
        outputs, passes = (
            prod(cast(tuple[int, ...], block.norm.normalized_shape)),
            batch * layer.passes,
        )
        made, spikes = passes * outputs, batch * seen.time_window * outputs
        macs, bytes_ = passes * layer.synapses, FLOAT * (passes * inputs + weights + made)
        forward += [
            Work(layer.name, "map", macs, bytes_),
            Work(layer.name, "norm, neuron", 0, FLOAT * (made + norm + spikes)),
        ]
        if backward:  # nobody asks for the observation's gradient
            backward.insert(0, Work(layer.name, "map, input", macs, bytes_))
        backward[:0] = [
            Work(layer.name, "norm, neuron", 0, FLOAT * (spikes + 2 * made + 2 * norm)),
            Work(layer.name, "map, weights", macs, bytes_),
        ]
        inputs = outputs
    macs = head.in_features * head.out_features
    bytes_ = FLOAT * (batch * (head.in_features + head.out_features) + macs)
    forward.append(Work("head", "mean", 0, FLOAT * (spikes + batch * head.in_features)))
    forward.append(Work("head", "map", batch * macs, bytes_))
    return forward, [Work("head", "map", 2 * batch * macs, 2 * bytes_), *backward]


def floor_ms(work: list[Work], rates: Rates) -> float:
    """The least time: each operation is bound by arithmetic or by memory, one after the other."""
    return 1e3 * sum(max(one.macs / rates.macs, one.bytes / rates.bytes) for one in work)


def copying(device: torch.device) -> Workload:
    """A copy of what no cache holds."""
    source = torch.ones(COPY_FLOATS, device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def convolution(device: torch.device) -> Workload:
    """Many multiply-adds on few bytes."""
    images, kernel = torch.ones(IMAGES, device=device), torch.ones(KERNEL, device=device)
    return lambda: F.conv2d(images, kernel, stride=STRIDE)


LIMITS = {"copy": copying, "convolution": convolution}
"""What takes turns with all that it judges."""


def machine_rates(times: Mapping[str, Spread], per: int = 1) -> Rates:
    """What the times of `LIMITS` say, each divided by `per`; bytes read and written both count."""
    copy, conv = (per * times[limit].median for limit in LIMITS)
    return Rates(1e3 * CONVOLUTION_MACS / conv, 1e3 * 2 * FLOAT * COPY_FLOATS / copy)
