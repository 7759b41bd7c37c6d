"""A readout whose outputs are spikes: neurons of its own, which fire for actions."""

import torch
from torch import Tensor, nn

from sdqn_lab.checks.ranges import Count, check_arguments
from sdqn_lab.spiking.neuron import Bernoulli
from sdqn_lab.spiking.readout import Readout


class OutputSpikes(Readout):
    """Neurons that fire for an action: the firing rate of the population of each action::

        v <- v + (W s_t - v) / tau
        fires with probability sigmoid((v - theta) / delta_u), then v <- 0
        y_a = spikes of action a / (T * units)

    They are `Bernoulli` neurons, each with a threshold theta of its own, a parameter. y has the
    surrogate's gradient; what it was made for is plasticity, which looks at the spikes themselves.

    Args:
        in_features: F, number of units of the last layer.
        num_actions: A, number of actions.
        units: output neurons of each action; those of the first action come first.
        tau: membrane time constant in steps, >= 1.
        v_threshold: theta before learning, > 0.
        delta_u: width of the escape noise, > 0, in units of the membrane.

    Attributes:
        neuron: the A * units output neurons.

    Raises:
        Refused: an argument is outside its range.
    """

    temporal = False

    def __init__(
        self,
        in_features: int,
        num_actions: int,
        *,
        units: Count = 1,
        tau: float = 2.0,
        v_threshold: float = 1.0,
        delta_u: float = 0.25,
    ) -> None:
        check_arguments(OutputSpikes.__init__, locals())
        super().__init__(in_features, num_actions * units)
        self.units = units
        self.neuron = Bernoulli(tau=tau, delta_u=delta_u, v_threshold=v_threshold)
        thresholds = torch.full((num_actions * units,), float(v_threshold))
        self.neuron.v_threshold = nn.Parameter(thresholds)  # type: ignore[assignment]

    def forward(self, spike_seq: Tensor) -> Tensor:
        """Spikes (T, B, F) to firing rates (B, A), in [0, 1]."""
        return self.rates(self.neuron(self.linear(spike_seq)))

    def rates(self, output_spikes: Tensor) -> Tensor:
        """Output spikes (T, B, A * units) to firing rates (B, A)."""
        return output_spikes.mean(0).view(output_spikes.shape[1], -1, self.units).mean(2)
