"""The small network of Young and Tian 2019 for MinAtar's 10x10 grids."""

from collections.abc import Sequence

from sdqn_lab.networks.blocks import Convolution, ConvolutionalTorso, MakeNeuron, MakeNorm


class MinAtar(ConvolutionalTorso):
    """One 3x3 convolution with stride 1 for each entry of `channels`, then one hidden layer.

    Args:
        observation_shape: (C, H, W), at least 1 + 2 * len(channels) pixels a side.
        make_neuron: makes one layer's neuron.
        make_norm: makes the norm of a layer from the shape of its current.
        channels: output channels of the convolutions, each >= 1.
        hidden: units of the fully connected layer, >= 1.
        normalize_hidden: whether the hidden layer is normalized too.

    Raises:
        Refused: the observation is no image or too small, or a size is below 1.

    Source: Young, Tian 2019 (MinAtar).
    """

    def __init__(
        self,
        observation_shape: Sequence[int],
        make_neuron: MakeNeuron,
        make_norm: MakeNorm,
        *,
        channels: Sequence[int] = (16,),
        hidden: int = 128,
        normalize_hidden: bool = False,
    ) -> None:
        super().__init__(
            observation_shape,
            make_neuron,
            make_norm,
            convolutions=[Convolution(entry, kernel=3, stride=1) for entry in channels],
            hidden=hidden,
            normalize_hidden=normalize_hidden,
            name="minatar",
        )
