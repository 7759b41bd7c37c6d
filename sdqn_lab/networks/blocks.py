"""The block that every network is made of, and the torso for images built from it."""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from sdqn_lab.spiking.kernels.maps import mapped
from sdqn_lab.spiking.neuron import Neuron, SpikingNeuron
from sdqn_lab.spiking.norm import NoNorm

Precision = Literal["float32", "bf16"]
MakeNeuron = Callable[[], Neuron]
MakeNorm = Callable[[tuple[int, ...]], nn.Module]


class Block(nn.Module):
    """Linear map -> norm -> neuron over a sequence.

    The linear map has no memory and sees steps and samples folded into one axis. A constant input,
    a sequence of one entry, is mapped and normalized once; only the neuron sees it T times, as a
    view. Where few units fire, the map of spiking neurons on a CPU leaves the zeros out, unless
    their backend is the reference.

    Args:
        linear: a map of (N, ...) to (N, ...), such as a convolution; a fully connected layer gets
            its inputs flat.
        norm: normalization with the signature of `sdqn_lab.spiking.norm.Norm`.
        neuron: what turns currents into activity.

    Attributes:
        precision: of the linear map's factors and result; norm and neuron keep that of the input.
    """

    precision: Precision = "float32"

    def __init__(self, linear: nn.Module, norm: nn.Module, neuron: Neuron) -> None:
        super().__init__()
        self.linear = linear
        self.norm = norm
        self.neuron = neuron

    def forward(self, x_seq: Tensor, time_window: int) -> Tensor:
        """Inputs (T, B, ...), or (1, B, ...) if constant, to activity (time_window, B, ...)."""
        steps, batch = x_seq.shape[:2]
        currents = self._mapped(x_seq.flatten(0, 1))
        currents = currents.view(steps, batch, *currents.shape[1:])
        activity: Tensor
        if _takes_norm(self.neuron):
            activity = self.neuron(currents, self.norm, time_window)
            return activity
        currents = self.norm(currents, repeats=time_window // steps)
        activity = self.neuron(currents.expand(time_window, *currents.shape[1:]))
        return activity

    def _mapped(self, x: Tensor) -> Tensor:
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32
        if isinstance(self.neuron, SpikingNeuron) and self.neuron.backend != "reference":
            by_spikes = mapped(self.linear, x, dtype)
            if by_spikes is not None:
                return by_spikes
        if isinstance(self.linear, nn.Linear):
            x = x.flatten(1)
        currents: Tensor
        if dtype == torch.float32:
            currents = self.linear(x)
        else:
            rounded = {name: factor.to(dtype) for name, factor in self.linear.named_parameters()}
            currents = functional_call(self.linear, rounded, (x.to(dtype),)).to(x.dtype)
        return currents


def _takes_norm(neuron: Neuron) -> bool:
    """Whether the neuron may do the normalization in the same kernel."""
    return isinstance(neuron, SpikingNeuron) and type(neuron).forward is SpikingNeuron.forward


class Torso(nn.Module):
    """Blocks between the encoder and the readout: (T or 1, B, ...) to (T, B, num_features).

    Attributes:
        num_features: units of the last layer.
    """

    num_features: int


class Convolution(NamedTuple):
    """A square convolution without padding: output channels, kernel size and stride in pixels."""

    channels: int
    kernel: int
    stride: int

    def size(self, pixels: int) -> int:
        """Output pixels along one side; below 1 where the kernel does not fit."""
        return (pixels - self.kernel) // self.stride + 1


class ConvolutionalTorso(Torso):
    """Convolutional blocks conv1, conv2, ..., then one fully connected block `hidden`.

    Every convolution is normalized; the hidden layer only if asked.

    Args:
        observation_shape: (C, H, W).
        make_neuron: makes one layer's neuron.
        make_norm: makes the norm of a layer from the shape of its current.
        convolutions: the convolutions in their order.
        hidden: units of the fully connected layer, >= 1.
        normalize_hidden: whether the fully connected layer has a norm too.
        name: what the user writes for this network, for messages.

    Raises:
        ValueError: the observation is no image or too small, or a size is below 1.
    """

    def __init__(
        self,
        observation_shape: Sequence[int],
        make_neuron: MakeNeuron,
        make_norm: MakeNorm,
        *,
        convolutions: Sequence[Convolution],
        hidden: int,
        normalize_hidden: bool,
        name: str,
    ) -> None:
        super().__init__()
        channels_of = [convolution.channels for convolution in convolutions]
        if not channels_of or min(channels_of) < 1:
            rule = "must be >= 1 everywhere and not empty"
            raise ValueError(f"network.channels {rule}, got {channels_of}")
        check_positive(hidden=hidden)
        _check_image(observation_shape, convolutions, name)
        channels, height, width = observation_shape
        self._convs: list[str] = []
        for number, convolution in enumerate(convolutions, start=1):
            height, width = convolution.size(height), convolution.size(width)
            linear = nn.Conv2d(channels, *convolution)
            channels = convolution.channels
            block = Block(linear, make_norm((channels, height, width)), make_neuron())
            self._convs.append(f"conv{number}")
            self.add_module(f"conv{number}", block)
        features = channels * height * width
        self.hidden = fully_connected(features, hidden, make_neuron, make_norm, normalize_hidden)
        self.num_features = hidden

    def forward(self, x_seq: Tensor, time_window: int) -> Tensor:
        """Images (T, B, C, H, W), or (1, B, C, H, W), to activity (time_window, B, hidden)."""
        if x_seq.is_cpu and len(self._convs) > 1:  # quicker there, and worth a copy
            x_seq = _channels_last(x_seq)
        for conv in self._convs:
            x_seq = self.get_submodule(conv)(x_seq, time_window)
        activity: Tensor = self.hidden(x_seq, time_window)
        return activity


def _channels_last(x_seq: Tensor) -> Tensor:
    images = x_seq.flatten(0, 1).contiguous(memory_format=torch.channels_last)
    return images.view(x_seq.shape)


def fully_connected(
    in_features: int,
    units: int,
    make_neuron: MakeNeuron,
    make_norm: MakeNorm,
    normalize: bool,
) -> Block:
    """A block of a fully connected layer, with the norm of make_norm or without any."""
    linear = nn.Linear(in_features, units)
    norm = make_norm((units,)) if normalize else NoNorm((units,))
    return Block(linear, norm, make_neuron())


def check_positive(**sizes: int) -> None:
    """Raise ValueError unless all sizes, named as keys of `network`, are >= 1."""
    for key, size in sizes.items():
        if size < 1:
            raise ValueError(f"network.{key} must be >= 1, got {size}")


def _check_image(shape: Sequence[int], convolutions: Sequence[Convolution], name: str) -> None:
    if len(shape) != 3:
        raise ValueError(
            f"network={name} needs an image (C, H, W), "
            f"got an observation of shape {tuple(shape)}: write network=mlp"
        )
    smallest = 1
    for convolution in reversed(convolutions):
        smallest = (smallest - 1) * convolution.stride + convolution.kernel
    if min(shape[1:]) < smallest:
        instead = "network=minatar" if name == "nature" else "fewer network.channels"
        raise ValueError(
            f"network={name} needs an image of at least {smallest}x{smallest} pixels, "
            f"got an observation of shape {tuple(shape)}: write {instead}"
        )
