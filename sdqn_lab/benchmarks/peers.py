"""The same layers made with other libraries, where those are installed.

Nothing here is a dependency: every function raises ImportError where its library is missing.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any, cast

import torch
from torch import Tensor

from sdqn_lab.checks.refused import Refused
from sdqn_lab.networks.blocks import Block
from sdqn_lab.networks.network import SpikingNetwork
from sdqn_lab.spiking.encoder import Encoder
from sdqn_lab.spiking.neuron import LIF, Neuron, SpikingNeuron
from sdqn_lab.spiking.surrogate import Atan, Sigmoid

SPIKINGJELLY = "spikingjelly"
SNNTORCH = "snntorch"
SURROGATES = {Atan: ("ATan", "atan"), Sigmoid: ("Sigmoid", "sigmoid")}
"""Those that both libraries have, with their names there."""


class Repeated(Encoder):
    """The observation T times, as multi-step layers of other libraries want their input."""

    constant = False

    def forward(
        self, x: Tensor, time_window: int, generator: torch.Generator | None = None
    ) -> Tensor:
        """Observations (B, ...) to (time_window, B, ...), a view."""
        return x.unsqueeze(0).expand(time_window, *x.shape)


class SpikingJellyNeuron(Neuron):
    """SpikingJelly's multi-step LIF with the settings of one of ours.

    On a GPU it takes the implementation that the library chooses, or the one that
    `SJ_LIF_CUDA_IMPLEMENTATION` names.

    Raises:
        ImportError: the library, or one that it needs, is missing.
        Refused: the library has no such neuron.
    """

    temporal = True

    def __init__(self, like: SpikingNeuron) -> None:
        super().__init__()
        if not isinstance(like, LIF) or like.reset == "soft":
            raise Refused("neuron", like, "must be a LIF with a hard reset")
        neuron = import_module(f"{SPIKINGJELLY}.activation_based.neuron")
        surrogates = import_module(f"{SPIKINGJELLY}.activation_based.surrogate")
        kind = getattr(surrogates, SURROGATES[type(like.surrogate)][0])
        self.v_threshold, self.v_reset = like.v_threshold, like.v_reset
        self.node = neuron.LIFNode(
            tau=like.tau,
            v_threshold=like.v_threshold,
            v_reset=like.v_reset,
            surrogate_function=kind(alpha=like.surrogate.alpha),
            detach_reset=like.detach_reset,
            step_mode="m",
        )

    def forward(self, x_seq: Tensor) -> Tensor:
        """Currents (T, B, ...) to spikes (T, B, ...), from a fresh membrane."""
        self.node.reset()
        return cast(Tensor, self.node(x_seq))


def spikingjelly_network(network: SpikingNetwork) -> SpikingNetwork:
    """Turn a network into SpikingJelly's multi-step form, in place; maps and norms stay."""
    for block in network.torso.children():
        if isinstance(block, Block) and isinstance(block.neuron, SpikingNeuron):
            block.neuron = SpikingJellyNeuron(block.neuron)
    network.encoder = Repeated()
    return network


def snntorch_layer(like: LIF) -> Callable[[Tensor], Tensor]:
    """snnTorch's `Leaky` stepped over T: our spikes, but its own gradient through the reset.

    Raises:
        ImportError: the library is missing.
    """
    surrogates = import_module(f"{SNNTORCH}.surrogate")
    leaky: Any = import_module(SNNTORCH).Leaky(
        beta=1 - 1 / like.tau,
        threshold=like.v_threshold,
        spike_grad=getattr(surrogates, SURROGATES[type(like.surrogate)][1])(like.surrogate.alpha),
        reset_mechanism="zero",
        # Ours resets in the step that fires; left alone, this library does so in the next.
        reset_delay=False,
    )

    def forward(x_seq: Tensor) -> Tensor:
        leaky.to(x_seq.device)
        membrane, spikes = leaky.init_leaky(), []
        for x in x_seq.unbind(0):
            # Its equation does not divide the current by tau, ours does.
            spike, membrane = leaky(x / like.tau, membrane)
            spikes.append(spike)
        return torch.stack(spikes)

    return forward
