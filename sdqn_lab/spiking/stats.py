"""How active each layer is: firing rates, silent and saturated shares."""

from collections.abc import Iterator
from functools import partial
from operator import add
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sdqn_lab.spiking.neuron import Layer, Neuron


class LayerStats(NamedTuple):
    """Activity of one layer over the recorded forwards, all shares in [0, 1].

    Attributes:
        firing_rate: mean of the activity over steps, samples and units.
        silent_fraction: share of units that were never active, for any sample at any step.
        saturated_fraction: share of (sample, unit) pairs that were active at every step. With a
            single step, as without time, every active pair is.
    """

    firing_rate: float
    silent_fraction: float
    saturated_fraction: float


class _Counts(NamedTuple):
    """Sums of one layer; tensors stay on their device until they are read."""

    active: Tensor
    entries: int
    ever: Tensor
    saturated: Tensor
    pairs: int


def neurons(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every layer's name, and the module that answers with the activity of its neuron.

    That is the layer, or a neuron that stands alone. A layer is named by its path in the torso; in
    the own torso of a head, by the head's name before it (`value.hidden1`).
    """
    inside: set[nn.Module] = set()
    for name, module in network.named_modules():
        if isinstance(module, Layer):
            inside.add(module.neuron)
        if isinstance(module, Layer | Neuron) and module not in inside:
            path = name.removeprefix("own_torsos.").removeprefix("torso.")
            yield path.removesuffix(".neuron"), module


class SpikeRecorder:
    """Counts what every neuron of a network does while the context is open.

        with SpikeRecorder(network) as recorder:
            network(observations)
        rates = {name: stats.firing_rate for name, stats in recorder.layers().items()}

    A unit is active where its output is above 0: a spike, or a ReLU's positive answer. The
    network's results are not changed. A layer is named by the path of its block in the torso
    (`conv1`, `hidden`).

    Args:
        network: any module that holds neurons.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._counts: dict[str, _Counts] = {}
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> Self:
        for layer, module in neurons(self._network):
            self._handles.append(module.register_forward_hook(partial(self._record, layer)))
        return self

    def __exit__(self, *error: object) -> None:
        while self._handles:
            self._handles.pop().remove()

    def layers(self) -> dict[str, LayerStats]:
        """Statistics of every layer that has run so far, in the order of the network."""
        return {
            name: LayerStats(
                counts.active.item() / counts.entries,
                1 - counts.ever.double().mean().item(),
                counts.saturated.item() / counts.pairs,
            )
            for name, counts in self._counts.items()
        }

    @torch.no_grad()
    def _record(
        self, layer: str, module: nn.Module, inputs: tuple[Tensor, ...], activity: Tensor
    ) -> None:
        active = activity > 0
        ever, always = active.flatten(0, 1).any(0), active.all(0)
        counts = _Counts(active.sum(), active.numel(), ever, always.sum(), always.numel())
        # The sum of two bools is their "or", which is what `ever` needs.
        if layer in self._counts:
            counts = _Counts(*map(add, self._counts[layer], counts))
        self._counts[layer] = counts
