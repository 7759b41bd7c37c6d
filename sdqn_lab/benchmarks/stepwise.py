"""The whole network run anew at every simulation step, as the released PL-SDQN does it.

This is what our networks are measured against. It has the layers, weights and equations of ours and
none of their economies: the constant input passes the first map and norm T times, the head runs T
times, and every operation of every step is a node of the autograd graph.
"""

from typing import Self

import torch
from torch import Tensor, nn

from sdqn_lab.checks.refused import Refused
from sdqn_lab.networks.blocks import Block
from sdqn_lab.networks.network import SpikingNetwork
from sdqn_lab.spiking.encoder import Direct
from sdqn_lab.spiking.neuron import LIF
from sdqn_lab.spiking.readout import MeanSpikes


class StepByStep(SpikingNetwork):
    """A step-by-step view of a network; both share all modules and parameters.

    Source: Brain-Cog's sdqn example (Sun, Zeng, Li 2022), whose loop this is.
    """

    @classmethod
    def of(cls, network: SpikingNetwork) -> Self:
        """The same network, step by step.

        Raises:
            Refused: the network is not of the published kind.
        """
        for block in network.torso.children():
            neuron = block.neuron if isinstance(block, Block) else None
            hard = (getattr(neuron, key, None) for key in ("reset", "detach_reset", "v_reset"))
            if type(neuron) is not LIF or tuple(hard) != ("hard", True, 0):
                raise Refused("neuron", neuron, "must be a LIF with a hard, detached reset to 0")
        if not isinstance(network.encoder, Direct):
            raise Refused("encoder", network.encoder, "must give a constant input", "direct")
        if not isinstance(network.readout, MeanSpikes):
            raise Refused("readout", network.readout, "must be the mean of spikes", "mean_spikes")
        return cls(
            network.torso,
            network.encoder,
            network.heads,
            time_window=network.time_window,
            observation_scale=network.observation_scale,
        )

    def forward(
        self,
        observations: Tensor,
        *,
        time_window: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Observations to values (B, num_actions); see `SpikingNetwork`."""
        x = observations.to(self.readout.linear.weight.dtype) / self.observation_scale
        blocks = [block for block in self.torso.children() if isinstance(block, Block)]
        membranes: list[Tensor | float] = [0.0] * len(blocks)
        outputs: list[Tensor] = []
        for _ in range(self.steps(time_window)):
            h = x
            for layer, block in enumerate(blocks):
                h = h.flatten(1) if isinstance(block.linear, nn.Linear) else h
                current = block.norm(block.linear(h).unsqueeze(0)).squeeze(0)
                assert isinstance(block.neuron, LIF)
                h, membranes[layer] = lif_step(block.neuron, current, membranes[layer])
            outputs.append(self.readout.linear(h))
        return torch.stack(outputs).mean(0)


def lif_step(neuron: LIF, x: Tensor, v: Tensor | float) -> tuple[Tensor, Tensor]:
    """Charge, fire, reset to 0: (spike, membrane). Not one operation more than the original's."""
    v = v + (x - v) / neuron.tau
    spike = neuron.surrogate(v - neuron.v_threshold)
    return spike, v * (1 - spike.detach())
