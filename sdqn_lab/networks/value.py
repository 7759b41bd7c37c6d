"""The whole network: observations to action values."""

import torch
from torch import Tensor, nn

from sdqn_lab.networks.blocks import Torso
from sdqn_lab.spiking.encoder import Encoder
from sdqn_lab.spiking.neuron import Neuron
from sdqn_lab.spiking.readout import Readout


class ValueNetwork(nn.Module):
    """Q(observation) = readout(torso(encoder(observation / observation_scale))).

    A pure function: no membrane survives a call. (Batch normalization in training mode moves its
    running statistics, and a Poisson encoder draws from the generator that it is given.) With
    neurons that know no time every call runs a single step, whatever time_window says.

    Args:
        torso: the blocks, with activity (T, B, num_features).
        encoder: observation to sequence.
        readout: sequence to values.
        time_window: T, simulation steps per decision, >= 1.
        observation_scale: the observation is divided by it, > 0 (255 for bytes).

    Raises:
        ValueError: a number is outside its range, or the readout needs time and the neurons have
            none.
    """

    def __init__(
        self,
        torso: Torso,
        encoder: Encoder,
        readout: Readout,
        *,
        time_window: int,
        observation_scale: float,
    ) -> None:
        super().__init__()
        if not observation_scale > 0:
            raise ValueError(f"observation_scale must be > 0, got {observation_scale}")
        self.torso = torso
        self.encoder = encoder
        self.readout = readout
        self.time_window = _checked(time_window)
        self.observation_scale = observation_scale
        neurons = [module for module in torso.modules() if isinstance(module, Neuron)]
        self.temporal = any(neuron.temporal for neuron in neurons)
        if readout.temporal and not self.temporal:
            raise ValueError(
                f"{type(readout).__name__} needs time, but the neuron has none: "
                "write readout=mean_spikes"
            )

    def forward(
        self,
        observations: Tensor,
        *,
        time_window: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Observations (B, C, H, W) or (B, F), bytes or floats, to values (B, num_actions).

        Args:
            observations: a batch as the environment gives it, not scaled.
            time_window: T for this call alone; None means the network's own.
            generator: where a random encoder draws from, on the observations' device.

        Raises:
            ValueError: time_window is below 1.
        """
        steps = self._steps(time_window)
        x = observations.to(self.readout.linear.weight.dtype) / self.observation_scale
        x_seq = self.encoder(x, steps, generator)
        values: Tensor = self.readout(self.torso(x_seq, steps))
        return values

    def _steps(self, time_window: int | None) -> int:
        if not self.temporal:
            return 1
        return self.time_window if time_window is None else _checked(time_window)


def _checked(time_window: int) -> int:
    if time_window < 1:
        raise ValueError(f"time_window must be >= 1, got {time_window}")
    return time_window
