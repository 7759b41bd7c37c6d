"""One layer of LIF neurons, forward and backward over T."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from sdqn_lab.benchmarks.peers import SNNTORCH, SPIKINGJELLY, SpikingJellyNeuron, snntorch_layer
from sdqn_lab.benchmarks.rows import Rival, Row, Setting, contest
from sdqn_lab.benchmarks.timing import Form
from sdqn_lab.spiking.neuron import LIF
from sdqn_lab.spiking.surrogate import Atan, Sigmoid, Surrogate

Layer = Callable[[Tensor], Tensor]


class Size(NamedTuple):
    """A layer's current (time_window, *shape); constant: one step stands for all."""

    time_window: int
    shape: tuple[int, ...]
    constant: bool = False


SIZES = {
    "conv1": Size(16, (32, 32, 20, 20), constant=True),
    "conv2": Size(16, (32, 64, 9, 9)),
    "hidden": Size(16, (32, 512)),
    "minatar": Size(8, (32, 16, 8, 8), constant=True),
}
"""Layers of the nature network, and the convolution of the one for MinAtar, at batch 32."""
PEERS_KNOW = (Atan, Sigmoid)


def layer_rows(name: str, setting: Setting, size: Size, surrogate: Surrogate) -> list[Row]:
    """Ours against the plain steps and other libraries, on the same currents."""
    form = partial(_form, setting, size)
    ours, plain = LIF(surrogate=surrogate), LIF(surrogate=surrogate)
    plain.backend = "reference"
    rivals: dict[str, Rival] = {"reference": partial(form, plain)}
    if isinstance(surrogate, PEERS_KNOW):
        rivals[SPIKINGJELLY] = lambda: form(SpikingJellyNeuron(ours))
        rivals[SNNTORCH] = lambda: form(snntorch_layer(ours))
    return contest(name, form(ours), rivals, setting)


def _form(setting: Setting, size: Size, layer: Layer) -> Form:
    generator = torch.Generator().manual_seed(0)
    steps = 1 if size.constant else size.time_window
    drawn = torch.randn(steps, *size.shape, generator=generator) + 1.0
    currents = drawn.to(setting.device).requires_grad_()
    shape = (size.time_window, *size.shape)
    gradient = torch.randn(shape, generator=generator).to(setting.device)

    def run() -> None:
        currents.grad = None
        spikes = layer(currents.expand(shape))
        spikes.backward(gradient)  # type: ignore[no-untyped-call]

    return run
