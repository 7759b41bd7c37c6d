"""Single layers, forward and backward: LIF neurons over T, and linear maps of spikes."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sdqn_lab.benchmarks import peers
from sdqn_lab.benchmarks.rows import Benchmark, Competitor, Row, Setting, compare
from sdqn_lab.benchmarks.timing import Workload
from sdqn_lab.spiking import surrogate as surrogates
from sdqn_lab.spiking.kernels.sparse import sparse_linear
from sdqn_lab.spiking.neuron import LIF

SURROGATES = "Atan", "Sigmoid", "QuadraticGate", "Gate", "FastSigmoid", "Triangle"
Layer = Callable[[Tensor], Tensor]


class Neurons(NamedTuple):
    """A layer's current (time_window, *shape); constant: one step stands for all."""

    time_window: int
    shape: tuple[int, ...]
    constant: bool = False


class Map(NamedTuple):
    """A linear map, and the images (N, C, H, W) of all T steps of a batch."""

    make: Callable[[], nn.Module]
    time_window: int
    shape: tuple[int, int, int, int]


NEURONS = {
    "conv1": Neurons(16, (32, 32, 20, 20), constant=True),
    "conv2": Neurons(16, (32, 64, 9, 9)),
    "hidden": Neurons(16, (32, 512)),
}
"""Layers of the nature network at batch 32."""
MAPS = {
    "conv2": Map(partial(nn.Conv2d, 32, 64, 4, stride=2), 16, (512, 32, 20, 20)),
    "conv3": Map(partial(nn.Conv2d, 64, 64, 3), 16, (512, 64, 9, 9)),
    "hidden": Map(partial(nn.Linear, 3136, 512), 16, (512, 64, 7, 7)),
}
"""Maps of the nature network at batch 32."""
FIRING = (0.05, 0.1, 0.15)
"""Shares of the inputs that fire."""


def benchmarks(setting: Setting) -> Iterator[Benchmark]:
    """All of this module; only a CPU has maps that skip zeros."""
    for surrogate in SURROGATES[:1] if setting.quick else SURROGATES:
        for name, neurons in NEURONS.items():
            stem = f"lif/{name}/T={neurons.time_window}/{surrogate.lower()}"
            yield Benchmark(stem, setting, neuron_rows, neurons, getattr(surrogates, surrogate)())
    if setting.device.type != "cpu":
        return
    for firing in FIRING[1:2] if setting.quick else FIRING:
        for name, map_ in MAPS.items():
            stem = f"map/{name}/T={map_.time_window}/firing={firing}"
            yield Benchmark(stem, setting, map_rows, map_, firing)


def neuron_rows(
    name: str, setting: Setting, size: Neurons, surrogate: surrogates.Surrogate
) -> list[Row]:
    """Ours against the plain steps and other libraries, on the same currents."""
    shape = (size.time_window, *size.shape)

    def workload(layer: Layer) -> Workload:
        # Drawn on the CPU, so that all devices get the same numbers.
        generator = torch.Generator().manual_seed(0)
        steps = 1 if size.constant else size.time_window
        drawn = torch.randn(steps, *size.shape, generator=generator) + 1.0
        gradient = torch.randn(shape, generator=generator).to(setting.device)
        return _both_ways(lambda x: layer(x.expand(shape)), drawn.to(setting.device), gradient)

    ours, plain = LIF(surrogate=surrogate), LIF(surrogate=surrogate)
    plain.backend = "reference"
    competitors: dict[str, Competitor] = {"reference": partial(workload, plain)}
    if type(surrogate) in peers.SURROGATES:
        competitors[peers.SPIKINGJELLY] = lambda: workload(peers.SpikingJellyNeuron(ours))
        competitors[peers.SNNTORCH] = lambda: workload(peers.snntorch_layer(ours))
    return compare(name, setting, partial(workload, ours), competitors)


def map_rows(name: str, setting: Setting, size: Map, firing: float) -> list[Row]:
    """Our map of spikes, which skips zeros, against torch's."""
    torch.manual_seed(0)
    linear = size.make()

    def ours(x: Tensor) -> Tensor:
        y = sparse_linear(linear, x)
        # Falling back, as a network does, the row would compare torch's map with itself.
        if y is None:
            raise RuntimeError(f"{name}: these spikes are left to the dense map")
        return y

    def dense(x: Tensor) -> Tensor:
        y: Tensor = linear(x.flatten(1) if isinstance(linear, nn.Linear) else x)
        return y

    def workload(layer: Layer) -> Workload:
        generator = torch.Generator().manual_seed(0)
        spikes = (torch.rand(size.shape, generator=generator) < firing).float()
        spikes = spikes.contiguous(memory_format=torch.channels_last)
        gradient = torch.randn(layer(spikes).shape, generator=generator)
        return _both_ways(layer, spikes, gradient, linear)

    return compare(name, setting, partial(workload, ours), {"dense": partial(workload, dense)})


def _both_ways(
    layer: Layer, x: Tensor, gradient: Tensor, weights: nn.Module | None = None
) -> Workload:
    """Forward and backward, with gradients for the input and for the weights if there are any."""
    x.requires_grad_()

    def run() -> None:
        x.grad = None
        if weights:
            weights.zero_grad()
        layer(x).backward(gradient)  # type: ignore[no-untyped-call]

    return run
