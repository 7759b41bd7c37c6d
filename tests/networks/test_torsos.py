from typing import Any

import pytest
import torch
from torch import nn

from sdqn_lab.checks.refused import Refused
from sdqn_lab.networks.minatar import MinAtar
from sdqn_lab.networks.mlp import MLP
from sdqn_lab.networks.nature import Nature
from sdqn_lab.spiking.neuron import LIF
from sdqn_lab.spiking.norm import NoNorm, PopNorm
from tests.networks.helpers import build


@pytest.mark.parametrize(
    ("num_actions", "expected"),
    [
        # 32(4*64)+32, 2*32*400; 64(32*16)+64, 2*64*81; 64(64*9)+64, 2*64*49; 3136*512+512; 512*A
        (6, 1_729_440),
        (18, 1_729_440 + 12 * 512),
    ],
)
def test_the_published_network_has_the_published_number_of_parameters(
    num_actions: int, expected: int
) -> None:
    network = build(torso=Nature, shape=(4, 84, 84), num_actions=num_actions)
    assert sum(parameter.numel() for parameter in network.parameters()) == expected


@pytest.mark.parametrize(
    ("torso", "shape", "sizes", "layers"),
    [
        (
            Nature,
            (4, 84, 84),
            {},
            {"conv1": (32, 20, 20), "conv2": (64, 9, 9), "conv3": (64, 7, 7), "hidden": (512,)},
        ),
        (
            Nature,
            (1, 36, 47),
            {"channels": [2, 3, 4], "hidden": 5},
            {"conv1": (2, 8, 10), "conv2": (3, 3, 4), "conv3": (4, 1, 2), "hidden": (5,)},
        ),
        (MinAtar, (4, 10, 10), {}, {"conv1": (16, 8, 8), "hidden": (128,)}),
        (
            MinAtar,
            (7, 10, 10),
            {"channels": [8, 9], "hidden": 5},
            {"conv1": (8, 8, 8), "conv2": (9, 6, 6), "hidden": (5,)},
        ),
        (MLP, (4,), {}, {"hidden1": (128,), "hidden2": (128,)}),
        (MLP, (4,), {"layers": 1, "hidden": 3}, {"hidden1": (3,)}),
    ],
)
def test_layers_have_the_sizes_of_the_formulas(
    torso: Any, shape: tuple[int, ...], sizes: dict[str, Any], layers: dict[str, tuple[int, ...]]
) -> None:
    network = build(torso=torso, shape=shape, time_window=2, **sizes)
    seen: dict[str, tuple[int, ...]] = {}
    for name, block in network.torso.named_children():
        block.register_forward_hook(
            lambda _module, _inputs, out, name=name: seen.update({name: tuple(out.shape)})
        )
    values = network(torch.zeros(3, *shape))
    assert seen == {name: (2, 3, *size) for name, size in layers.items()}
    assert values.shape == (3, 3)
    assert network.torso.num_features == list(layers.values())[-1][0]


@pytest.mark.parametrize(
    ("torso", "shape", "sizes", "normalized"),
    [
        (Nature, (4, 84, 84), {}, ["conv1", "conv2", "conv3"]),
        (Nature, (4, 84, 84), {"normalize_hidden": True}, ["conv1", "conv2", "conv3", "hidden"]),
        (MinAtar, (4, 10, 10), {}, ["conv1"]),
        (MinAtar, (4, 10, 10), {"normalize_hidden": True}, ["conv1", "hidden"]),
        (MLP, (4,), {}, ["hidden1"]),
        (MLP, (4,), {"layers": 3}, ["hidden1", "hidden2"]),
        (MLP, (4,), {"layers": 1}, []),
        (MLP, (4,), {"normalize_hidden": True}, ["hidden1", "hidden2"]),
    ],
)
def test_all_but_the_last_layer_are_normalized_unless_asked(
    torso: Any, shape: tuple[int, ...], sizes: dict[str, Any], normalized: list[str]
) -> None:
    network = build(norm=PopNorm, torso=torso, shape=shape, **sizes)
    found = [name for name, block in network.torso.named_children() if holds(block, PopNorm)]
    assert found == normalized


def holds(block: nn.Module, norm: type[nn.Module]) -> bool:
    return any(isinstance(module, norm) for module in block.modules())


@pytest.mark.parametrize(
    ("torso", "shape", "sizes", "key", "instead"),
    [
        (Nature, (4,), {}, "network", "network=mlp"),
        (Nature, (4, 35, 84), {}, "network", "network=minatar"),
        (Nature, (4, 84, 84), {"channels": [32, 64]}, "channels", ""),
        (Nature, (4, 84, 84), {"channels": [32, 0, 64]}, "channels", ""),
        (Nature, (4, 84, 84), {"hidden": 0}, "hidden", ""),
        (MinAtar, (4,), {}, "network", "network=mlp"),
        (MinAtar, (4, 10, 2), {}, "network", ""),
        (MinAtar, (4, 10, 10), {"channels": [4] * 5}, "network", ""),
        (MinAtar, (4, 10, 10), {"channels": []}, "channels", ""),
        (MLP, (4, 84, 84), {}, "network", "network=nature or network=minatar"),
        (MLP, (4,), {"layers": 0}, "layers", ""),
        (MLP, (4,), {"hidden": -1}, "hidden", ""),
    ],
)
def test_refuses_what_it_cannot_take_and_says_what_to_write(
    torso: Any, shape: tuple[int, ...], sizes: dict[str, Any], key: str, instead: str
) -> None:
    with pytest.raises(Refused) as error:
        torso(shape, LIF, NoNorm, **sizes)
    assert (error.value.key, error.value.instead) == (key, instead)
    assert key == "network" or error.value.value == sizes[key]


@pytest.mark.parametrize(("convolutions", "pixels"), [(1, 3), (2, 5), (5, 11)])
def test_the_smallest_image_is_taken_and_a_smaller_one_is_not(
    convolutions: int, pixels: int
) -> None:
    sizes = {"channels": [4] * convolutions, "hidden": 2}
    MinAtar((4, pixels, pixels), LIF, NoNorm, **sizes)
    with pytest.raises(Refused, match=f"{pixels}x{pixels}"):
        MinAtar((4, pixels, pixels - 1), LIF, NoNorm, **sizes)
