"""Small networks with every combination of the axes, built without a config."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from sdqn_lab.networks.minatar import MinAtar
from sdqn_lab.networks.network import SpikingNetwork
from sdqn_lab.spiking.encoder import Direct, Encoder
from sdqn_lab.spiking.neuron import ALIF, IF, LIF, PLIF, Neuron, ReLU
from sdqn_lab.spiking.norm import BatchNorm, NoNorm, PopNorm
from sdqn_lab.spiking.readout import MeanSpikes, Readout

NEURONS: dict[str, Callable[[], Neuron]] = {
    "lif": LIF,
    "lif_soft": lambda: LIF(tau=1.5, reset="soft"),
    "lif_reset": lambda: LIF(v_threshold=0.5, v_reset=-0.25),
    "lif_attached": lambda: LIF(detach_reset=False),
    "if": IF,
    "plif": PLIF,
    "alif": lambda: ALIF(tau=1.5, detach_reset=False),
    "lif_layer": lambda: LIF(v_threshold=0.5, v_reset=-0.25, learn_threshold="layer"),
    "lif_channel": lambda: LIF(detach_reset=False, learn_threshold="channel"),
    "relu": ReLU,
}
SPIKING = [name for name in NEURONS if name != "relu"]
NORMS = {"none": NoNorm, "batchnorm": BatchNorm, "popnorm": PopNorm}


def build(
    neuron: Callable[[], Neuron] = LIF,
    norm: Callable[..., nn.Module] = PopNorm,
    readout: type[Readout] = MeanSpikes,
    *,
    torso: Callable[..., Any] = MinAtar,
    encoder: Callable[[], Encoder] = Direct,
    shape: tuple[int, ...] = (2, 8, 7),
    num_actions: int = 3,
    time_window: int = 5,
    observation_scale: float = 1.0,
    seed: int = 0,
    gain: float = 1.0,
    **sizes: Any,
) -> SpikingNetwork:
    """A network whose maps are `gain` times torch's initialization."""
    torch.manual_seed(seed)
    first = neuron()

    def make_norm(normalized_shape: tuple[int, ...]) -> nn.Module:
        return norm(normalized_shape, v_threshold=first.v_threshold, v_reset=first.v_reset)

    made = encoder()
    body = torso(made.shape(shape), neuron, make_norm, **sizes)
    network = SpikingNetwork(
        body,
        made,
        {"q": readout(body.num_features, num_actions)},
        time_window=time_window,
        observation_scale=observation_scale,
    )
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.weight.data.mul_(gain)
    return network


def small(*args: Any, **kwargs: Any) -> SpikingNetwork:
    """A lively small network for images (2, 8, 7), in double precision."""
    return build(*args, **{"channels": (3,), "hidden": 16, "gain": 5.0, **kwargs}).double()


def images(batch: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2, (batch, 2, 8, 7), generator=generator, dtype=torch.uint8)
