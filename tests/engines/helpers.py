"""Small networks in two forms, torch's plain steps and compiled code, and what lies on a border.

A sum in another order rounds differently. So a membrane at its threshold may fire in one form and
not in the other, and everything behind it differs. `margin` says how near the nearest one is.
"""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sdqn_lab.networks.minatar import MinAtar
from sdqn_lab.networks.mlp import MLP
from sdqn_lab.networks.network import SpikingNetwork
from sdqn_lab.spiking.neuron import Neuron, SpikingNeuron
from sdqn_lab.spiking.surrogate import Gate
from tests.networks.helpers import build

BORDER = 1e-5
"""So near to a threshold float32 may decide either way."""
IMAGE, VECTOR, ACTIONS = (2, 5, 6), (7,), 3
Minatar = partial(build, torso=MinAtar, shape=IMAGE, channels=(16,), hidden=32, gain=4.0)
Mlp = partial(build, torso=MLP, shape=VECTOR, hidden=32, gain=4.0)


def plain(network: SpikingNetwork) -> SpikingNetwork:
    """A copy that torch runs by the steps that define the neurons."""
    other = copy.deepcopy(network)
    for module in other.modules():
        if isinstance(module, Neuron):
            module.backend = "reference"
    return other


def seen(shape: tuple[int, ...], batch: int, kind: str = "bytes", seed: int = 0) -> np.ndarray:
    """Observations, of which about half of the entries are zero."""
    rng = np.random.default_rng(seed)
    active = rng.integers(2, size=(batch, *shape), dtype=np.uint8)
    if kind == "bools":
        return active.astype(bool)
    if kind == "floats":
        return (active * rng.standard_normal(active.shape)).astype(np.float32)
    return active * rng.integers(1, 4, size=active.shape, dtype=np.uint8)


class Watched(nn.Module):
    """Currents and membranes of a plain network while it runs."""

    def __init__(self, network: SpikingNetwork) -> None:
        super().__init__()
        self.distances: list[Tensor] = []
        self.rates: list[float] = []
        self.network = copy.deepcopy(network)
        for module in self.network.modules():
            if isinstance(module, SpikingNeuron):
                module.surrogate = self._spike(module.surrogate)  # type: ignore[assignment]
            elif isinstance(module, Neuron):
                module.register_forward_pre_hook(lambda _, given: self._see(given[0]))

    def _see(self, x: Tensor) -> None:
        self.distances.append(x.detach().abs().min())
        self.rates.append(float((x > 0).double().mean()))

    def _spike(self, surrogate: Any) -> Callable[[Tensor], Tensor]:
        def spike(x: Tensor) -> Tensor:
            self._see(x)
            if isinstance(surrogate, Gate):  # its derivative jumps
                self.distances.append((x.detach().abs() - 1 / surrogate.alpha).abs().min())
            return surrogate(x)

        return spike


def margin(network: SpikingNetwork, *observations: np.ndarray) -> float:
    """How near any membrane comes to a threshold, or to where the surrogate's slope jumps."""
    watched = Watched(plain(network))
    for one in observations:
        watched.network(torch.from_numpy(one))
    return float(torch.stack(watched.distances).min())


def is_lively(network: SpikingNetwork, observations: np.ndarray) -> bool:
    """Whether in the whole run some units fire and some do not, in every layer."""
    watched = Watched(plain(network))
    watched.network(torch.from_numpy(observations))
    steps = network.time_window if network.temporal else 1
    layers = [watched.rates[i : i + steps] for i in range(0, len(watched.rates), steps)]
    return all(0.02 < sum(layer) / steps < 0.98 for layer in layers)


def gradients(network: SpikingNetwork) -> dict[str, Tensor]:
    return {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


def assert_near(ours: Tensor, theirs: Tensor, tolerance: float, name: str) -> None:
    """Relative difference in the L2 norm."""
    size = float(theirs.norm())
    assert size > 0, f"{name} is zero"
    difference = float((ours.to(theirs.dtype) - theirs).norm()) / size
    assert difference <= tolerance, f"{name}: {difference:.1e}"
