"""Readouts: the last layer's spikes (T, B, F) to one value per action (B, A).

All end in a bias-free linear map W, so that a silent network answers exactly 0; where neurons stand
before it, so that these do.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from sdqn_lab.checks.ranges import Count, check_arguments
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
    """Q = the integrator's potential after the last step, to which late spikes count more::

        Q = W sum_t (1 / tau) (1 - 1 / tau)^(T - 1 - t) s_t

    `DiscountedSpikes` is its mirror image. Arguments as `MembraneReadout`.
    """

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


class DiscountedSpikes(MembraneReadout):
    """Spikes discounted by their time, so that early ones count more::

        Q = W sum_t (1 / tau) (1 - 1 / tau)^t s_t

    The mirror image of `LastMembrane`: what that one gives for spikes in reversed order. W commutes
    with the sum and is therefore applied once. With tau = 1 the first step alone counts.

    Args:
        in_features: F, number of units of the last layer.
        num_actions: A, number of actions.
        tau: time constant of the discount in steps, >= 1.

    Raises:
        Refused: tau is below 1 or not finite.
    """

    def forward(self, spike_seq: Tensor) -> Tensor:
        """Spikes (T, B, F) to values (B, A)."""
        steps = torch.arange(len(spike_seq), device=spike_seq.device, dtype=spike_seq.dtype)
        weights = (1 - 1 / self.tau) ** steps / self.tau
        values: Tensor = self.linear(torch.tensordot(weights, spike_seq, dims=1))
        return values


class FirstSpike(Readout):
    """Time to first spike: Q = W (1 - t / T), t the step of a unit's first spike, T without any.

    A unit that fires at once counts 1, a silent one 0, and what follows a first spike nothing. The
    gradient is that of `first_spike_time`, so silent units can be recruited.

    Source: time-to-first-spike coding; the form that is linear in the time is ours.
    """

    temporal = True

    def forward(self, spike_seq: Tensor) -> Tensor:
        """Spikes (T, B, F) to values (B, A)."""
        values: Tensor = self.linear(1 - first_spike_time(spike_seq) / len(spike_seq))
        return values


class PopulationRates(Readout):
    """A population of neurons for each output, whose firing rates are weighted and summed::

        o_t = the spikes of A * units more neurons, fed by s_t, those of the first output first
        y_a = sum_i w_ai (mean over t of o_t,ai)

    These neurons are a layer as those of the torso are: a map with a bias, the config's norm, the
    config's neuron. Only the sum that follows has no bias, so that a silent population answers
    exactly 0.

    Args:
        in_features: F, number of units of the last layer.
        num_actions: A, number of outputs.
        make_layer: makes that layer from F and its number of units; it maps spikes (T, B, F) and T
            to its own (T, B, units).
        units: neurons of each output, >= 1.

    Attributes:
        population: the layer.
        linear: the weights w (A, units).

    Raises:
        Refused: units is below 1.

    Source: Tang et al. 2020 (PopSAN), whose actor ends in tanh(y).
    """

    temporal = False

    def __init__(
        self,
        in_features: int,
        num_actions: int,
        make_layer: Callable[[int, int], nn.Module],
        *,
        units: Count = 10,
    ) -> None:
        check_arguments(PopulationRates.__init__, locals())
        nn.Module.__init__(self)
        self.units = units
        self.population = make_layer(in_features, num_actions * units)
        self.linear = _RowByRow(units, num_actions, bias=False)

    def forward(self, spike_seq: Tensor) -> Tensor:
        """Spikes (T, B, F) to outputs (B, A)."""
        return self.weighted(self.population(spike_seq, len(spike_seq)).mean(0))

    def weighted(self, rates: Tensor) -> Tensor:
        """Firing rates (B, A * units) to outputs (B, A)."""
        outputs: Tensor = self.linear(rates.view(len(rates), -1, self.units))
        return outputs


class _RowByRow(nn.Linear):
    """Each row of the weights (A, units) for a row of the input (..., A, units), to (..., A)."""

    def forward(self, input: Tensor) -> Tensor:
        return (input * self.weight).sum(-1)


def first_spike_time(spike_seq: Tensor) -> Tensor:
    """The step of each unit's first spike, from 0; T if there is none::

        t = sum_(j < T) prod_(k <= j) (1 - s_k)

    For spikes of 0 and 1 the product is 1 as long as the unit has been silent. The sum is linear in
    each s_k, so its gradient is exactly what one spike more or less changes: with n the step of the
    spike after the first, or T, dt / ds_k is -(t - k) before the first spike, -(n - t) at it, and 0
    after it. For a silent unit it is -(T - k).

    Args:
        spike_seq: (T, B, ...), 0 or 1.

    Returns:
        (B, ...), in [0, T].
    """
    silent = torch.ones_like(spike_seq[0])
    time = torch.zeros_like(silent)
    # Products one by one: none is divided by, so spikes of exactly 1 have a gradient.
    for spikes in spike_seq.unbind(0):
        silent = silent * (1 - spikes)
        time = time + silent
    return time
