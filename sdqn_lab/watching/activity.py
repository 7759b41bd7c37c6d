"""What the neurons do for one observation, step by step."""

from functools import partial
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sdqn_lab.spiking.stats import neurons

MOST_UNITS = 64
"""Units of a layer that are kept for showing: more than a person can tell apart."""


class LayerActivity(NamedTuple):
    """One layer during one decision.

    Attributes:
        shown: (T, at most `MOST_UNITS`) outputs of units that lie evenly over the layer: spikes, or
            a ReLU's answers with T = 1.
        units: how many the layer has.
        rate: share of all (step, unit) pairs with an output above 0.
    """

    shown: npt.NDArray[np.float32]
    units: int
    rate: float


class ActivityTap:
    """Keeps the outputs of every layer for a batch's first observation while the context is open.

        with ActivityTap(network) as tap:
            network(observations)
        spikes = tap.layers()["conv1"].shown

    The network's results are not changed. Layers are named as `SpikeRecorder` names them.

    Args:
        network: any module that holds neurons.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._layers: dict[str, LayerActivity] = {}
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> Self:
        for layer, neuron in neurons(self._network):
            self._handles.append(neuron.register_forward_hook(partial(self._keep, layer)))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        while self._handles:
            self._handles.pop().remove()

    def layers(self) -> dict[str, LayerActivity]:
        """Every layer of the last forward, in the order of the network."""
        return dict(self._layers)

    @torch.no_grad()
    def _keep(
        self, layer: str, module: nn.Module, inputs: tuple[Tensor, ...], activity: Tensor
    ) -> None:
        first = activity[:, 0].flatten(1)
        units = first.shape[1]
        shown = first[:, spread(units)].float().cpu().numpy()
        rate = (first > 0).float().mean().item()
        self._layers[layer] = LayerActivity(shown, units, rate)


def spread(units: int) -> npt.NDArray[np.int64]:
    """The numbers of at most `MOST_UNITS` units, evenly from the first to the last."""
    return np.linspace(0, units - 1, min(units, MOST_UNITS)).round().astype(np.int64)
