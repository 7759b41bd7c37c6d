"""The network of Mnih et al. 2015 for Atari frames."""

from collections.abc import Sequence

from sdqn_lab.checks.refused import Refused
from sdqn_lab.networks.blocks import Convolution, ConvolutionalTorso, MakeNeuron, MakeNorm


class Nature(ConvolutionalTorso):
    """Three convolutions (8x8 stride 4, 4x4 stride 2, 3x3 stride 1) and one hidden layer.

    Args:
        observation_shape: (C, H, W), at least 36x36 pixels.
        make_neuron: makes one layer's neuron.
        make_norm: makes the norm of a layer from the shape of its current.
        channels: output channels of the three convolutions, each >= 1.
        hidden: units of the fully connected layer, >= 1.
        normalize_hidden: whether the hidden layer is normalized too (not so as published).

    Raises:
        Refused: the observation is no image or too small, or a size is wrong.

    Source: Mnih et al. 2015; with spiking neurons Sun, Zeng, Li 2022.
    """

    def __init__(
        self,
        observation_shape: Sequence[int],
        make_neuron: MakeNeuron,
        make_norm: MakeNorm,
        *,
        channels: Sequence[int] = (32, 64, 64),
        hidden: int = 512,
        normalize_hidden: bool = False,
    ) -> None:
        if len(channels) != 3:
            raise Refused("channels", list(channels), "must have 3 entries")
        first, second, third = channels
        super().__init__(
            observation_shape,
            make_neuron,
            make_norm,
            convolutions=(
                Convolution(first, kernel=8, stride=4),
                Convolution(second, kernel=4, stride=2),
                Convolution(third, kernel=3, stride=1),
            ),
            hidden=hidden,
            normalize_hidden=normalize_hidden,
            name="nature",
        )
