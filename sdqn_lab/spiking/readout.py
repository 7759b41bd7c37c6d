"""Readouts: the last layer's spikes (T, B, F) to one value per action (B, A).

All have a single bias-free linear map W, so that a silent network answers exactly 0.
"""

import math
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from sdqn_lab.checks.refused import Refused


class Readout(nn.Module, ABC):
    """The shared signature.

    Args:
        in_features: F, number of units of the last layer.
        num_actions: A, number of actions.

    Attributes:
        temporal: whether the readout has a meaning only with time.
    """

    temporal: ClassVar[bool]

    def __init__(self, in_features: int, num_actions: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, num_actions, bias=False)

    @abstractmethod
    def forward(self, spike_seq: Tensor) -> Tensor:
        """Spikes (T, B, F) to values (B, A)."""


class MeanSpikes(Readout):
    """Q = W * (mean over t of s_t): a linear map of the firing rates.

    W commutes with the mean and is therefore applied once.

    Source: Sun, Zeng, Li 2022.
    """

    temporal = False

    def forward(self, spike_seq: Tensor) -> Tensor:
        """Spikes (T, B, F) to values (B, A)."""
        values: Tensor = self.linear(spike_seq.mean(0))
        return values


class MembraneReadout(Readout):
    """A leaky integrator that never fires: v_t = v_(t-1) + (W s_t - v_(t-1)) / tau, from v = 0.

    Args:
        in_features: F, number of units of the last layer.
        num_actions: A, number of actions.
        tau: time constant of the integrator in steps, >= 1.

    Raises:
        Refused: tau is below 1 or not finite.

    Source: Chen, Peng, Huang, Tian 2022 (deep Q-networks with a non-spiking output neuron).
    """

    temporal = True

    def __init__(self, in_features: int, num_actions: int, *, tau: float = 2.0) -> None:
        super().__init__(in_features, num_actions)
        if not 1 <= tau < math.inf:
            raise Refused("tau", tau, "must be >= 1 and finite")
        self.tau = tau

    def membrane(self, spike_seq: Tensor) -> Tensor:
        """Spikes (T, B, F) to the integrators' potentials (T, B, A)."""
        currents: Tensor = self.linear(spike_seq)
        v = torch.zeros_like(currents[0])
        potentials = []
        for current in currents.unbind(0):
            v = v + (current - v) / self.tau
            potentials.append(v)
        return torch.stack(potentials)


class MeanMembrane(MembraneReadout):
    """Q = mean over t of the integrator's potential. Arguments as `MembraneReadout`."""

    def forward(self, spike_seq: Tensor) -> Tensor:
        """Spikes (T, B, F) to values (B, A)."""
        return self.membrane(spike_seq).mean(0)


class LastMembrane(MembraneReadout):
    """Q = the integrator's potential after the last step. Arguments as `MembraneReadout`."""

    def forward(self, spike_seq: Tensor) -> Tensor:
        """Spikes (T, B, F) to values (B, A)."""
        return self.membrane(spike_seq)[-1]


class MaxMembrane(MembraneReadout):
    """Q = maximum over t of the integrator's potential. Arguments as `MembraneReadout`.

    Steps that tie for the maximum share its gradient equally.
    """

    def forward(self, spike_seq: Tensor) -> Tensor:
        """Spikes (T, B, F) to values (B, A)."""
        return self.membrane(spike_seq).amax(0)
