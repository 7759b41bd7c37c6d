"""The block that every network is made of, and the torso for images built from it."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from sdqn_lab.checks.refused import Refused
from sdqn_lab.spiking.kernels.cpu import FusedLayer, LayerConstants, takes
from sdqn_lab.spiking.kernels.periodic import periodic_map
from sdqn_lab.spiking.kernels.sparse import sparse_linear
from sdqn_lab.spiking.neuron import Layer, Neuron, SpikingNeuron, run_neuron
from sdqn_lab.spiking.norm import NoNorm, Norm, PopNorm

Precision = Literal["float32", "bf16"]
MakeNeuron = Callable[[], Neuron]
MakeNorm = Callable[[tuple[int, ...]], nn.Module]


class _Given(NamedTuple):
    """What neurons get: currents (T or 1, B, ...), which a kernel normalizes where that is asked.

    Attributes:
        x: the currents.
        weight: of the kernel's normalization.
        bias: likewise.
        layer: the kernel's constants; None: the neuron is called.
    """

    x: Tensor
    weight: Tensor | None
    bias: Tensor | None
    layer: LayerConstants | None


class Block(Layer):
    """Linear map -> norm -> neuron over a sequence.

    The linear map has no memory and sees steps and samples folded into one axis. A constant input,
    a sequence of one entry, is mapped and normalized once; only the neuron sees it T times, as a
    view. Unless the neuron's backend is the reference, kernels take its steps and on a CPU also a
    PopNorm before it, and a map of few spikes skips the zeros. What has a hook is called.

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
        if isinstance(neuron, SpikingNeuron) and neuron.learn_threshold == "channel":
            # Only here it is known how many there are: the first entry of a current's shape.
            neuron.spread(cast(Norm, norm).normalized_shape[0])

    def forward(self, x_seq: Tensor, time_window: int) -> Tensor:
        """Inputs (T, B, ...), or (1, B, ...) if constant, to activity (time_window, B, ...).

        Raises:
            Refused: x_seq has neither time_window entries nor one.
        """
        steps = len(x_seq)
        if steps not in (1, time_window):
            raise Refused("x_seq", steps, f"must have {time_window} entries (T), or one")
        return self._fire(self._prepare(self._map(x_seq), time_window), time_window)

    def pair(self, following: "Block", x_seq: Tensor, time_window: int) -> Tensor:
        """Activity of the block that follows, from the input of this one; neither is called.

        Under a constant input this block's own activity is not written out, where that is possible.
        """
        given = self._prepare(self._map(x_seq), time_window)
        currents = None
        if given.layer is not None and following._skips_zeros:
            arguments = given.x, (given.weight, given.bias), time_window, given.layer
            currents = periodic_map(*arguments, following.linear, following._dtype)
        if currents is None:
            currents = following._map(self._fire(given, time_window))
        return following._fire(following._prepare(currents, time_window), time_window)

    def _prepare(self, currents: Tensor, time_window: int) -> "_Given":
        """Normalize currents (T or 1, B, ...), unless a kernel does."""
        # A hook wants its neuron to be called; a kernel would not call it.
        norm = self.norm
        layer = None if is_hooked(self.neuron) else self.neuron.kernel_constants()
        # PopNorm itself, no subclass: the kernel reads its weight, bias and eps, and a `forward` of
        # somebody else's would be passed over in silence.
        if (
            layer is not None
            and takes(currents)
            and type(norm) is PopNorm
            and not is_hooked(norm)
            and norm.weight.shape == currents.shape[2:]
            and norm.weight.dtype == currents.dtype
        ):
            layer = layer._replace(eps=np.float32(norm.eps), normalize=True)
            return _Given(currents, norm.weight, norm.bias, layer)
        return _Given(norm(currents, repeats=time_window // len(currents)), None, None, layer)

    def _fire(self, given: "_Given", time_window: int) -> Tensor:
        x, weight, bias, layer = given
        activity: Tensor | None = None
        if layer is not None and layer.normalize:
            activity = FusedLayer.apply(x, weight, bias, time_window, layer)  # type: ignore[no-untyped-call]
        elif layer is not None:
            activity = run_neuron(x, time_window, layer)
        if activity is None:
            activity = self.neuron(x.expand(time_window, *x.shape[1:]))
        return cast(Tensor, activity)

    def _map(self, x_seq: Tensor) -> Tensor:
        currents = self._currents(x_seq.flatten(0, 1))
        return currents.view(*x_seq.shape[:2], *currents.shape[1:])

    @property
    def _dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.precision == "bf16" else torch.float32

    @property
    def _skips_zeros(self) -> bool:
        # The inputs of an ANN baseline are hardly ever spikes; looking for them would cost time.
        spiking = isinstance(self.neuron, SpikingNeuron) and self.neuron.backend != "reference"
        return spiking and not is_hooked(self.linear)

    def _currents(self, x: Tensor) -> Tensor:
        dtype = self._dtype
        if self._skips_zeros:
            currents = sparse_linear(self.linear, x, dtype)
            if currents is not None:
                return currents
        if isinstance(self.linear, nn.Linear):
            x = x.flatten(1)
        if dtype == torch.float32:
            return cast(Tensor, self.linear(x))
        # Copies are rounded: the optimizer's parameters stay float32.
        rounded = {name: factor.to(dtype) for name, factor in self.linear.named_parameters()}
        currents = functional_call(self.linear, rounded, (x.to(dtype),)).to(x.dtype)
        return cast(Tensor, currents)


def hooks_of(module: nn.Module) -> tuple[dict[int, Any], ...]:
    """The module's hooks of all kinds, by kind."""
    before = (module._forward_pre_hooks, module._backward_pre_hooks)
    return (*before, module._forward_hooks, module._backward_hooks)


def is_hooked(module: nn.Module) -> bool:
    """Whether somebody wants a module to be called, or calls something else in its place."""
    return any(hooks_of(module)) or "forward" in vars(module)


def run_blocks(blocks: Sequence[nn.Module], x_seq: Tensor, time_window: int) -> Tensor:
    """Activity of the last block, each of which gets that of the one before.

    The first two share their work under a constant input, unless they or their maps have a hook.
    """
    rest = list(blocks)
    if len(rest) > 1 and len(x_seq) == 1:
        first, second = rest[:2]
        if type(first) is type(second) is Block and not (is_hooked(first) or is_hooked(second)):
            x_seq = first.pair(second, x_seq, time_window)
            del rest[:2]
    for block in rest:
        x_seq = block(x_seq, time_window)
    return x_seq


class Torso(nn.Module):
    """Blocks between the encoder and the readout: (T or 1, B, ...) to (T, B, num_features).

    Its children are the blocks, in their order, each under the name of its layer.

    Attributes:
        num_features: units of the last layer.
    """

    num_features: int

    def forward(self, x_seq: Tensor, time_window: int) -> Tensor:
        """Inputs (T, B, ...), or (1, B, ...), to activity (time_window, B, num_features)."""
        return run_blocks(list(self.children()), x_seq, time_window)


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
        Refused: the observation is no image or too small, or a size is below 1.
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
        entries = [convolution.channels for convolution in convolutions]
        if not entries or min(entries) < 1:
            raise Refused("channels", entries, "must be >= 1 everywhere and not empty")
        given = f"got an observation of shape {tuple(observation_shape)}"
        if len(observation_shape) != 3:
            rule = f"needs an image (C, H, W), {given}"
            raise Refused("network", name, rule, "network=mlp")
        # Backwards: the smallest input of a convolution is the smallest output of the one before.
        smallest = 1
        for convolution in reversed(convolutions):
            smallest = (smallest - 1) * convolution.stride + convolution.kernel
        if min(observation_shape[1:]) < smallest:
            rule = f"needs an image of at least {smallest}x{smallest} pixels, {given}"
            if name == "nature":
                raise Refused("network", name, rule, "network=minatar")
            raise Refused("network", name, f"{rule}; write fewer network.channels")
        channels, height, width = observation_shape
        for number, convolution in enumerate(convolutions, start=1):
            height, width = convolution.size(height), convolution.size(width)
            linear = nn.Conv2d(channels, *convolution)
            channels = convolution.channels
            block = Block(linear, make_norm((channels, height, width)), make_neuron())
            self.add_module(f"conv{number}", block)
        features = channels * height * width
        self.hidden = fully_connected(features, hidden, make_neuron, make_norm, normalize_hidden)
        self.num_features = hidden

    def forward(self, x_seq: Tensor, time_window: int) -> Tensor:
        """Images (T, B, C, H, W), or (1, B, C, H, W), to activity (time_window, B, hidden)."""
        # Quicker on a CPU, and from two convolutions on, beside `hidden`, worth a copy.
        if x_seq.is_cpu and len(list(self.children())) > 2:
            images = x_seq.flatten(0, 1).contiguous(memory_format=torch.channels_last)
            x_seq = images.view(x_seq.shape)
        return run_blocks(list(self.children()), x_seq, time_window)


def fully_connected(
    in_features: int,
    units: int,
    make_neuron: MakeNeuron,
    make_norm: MakeNorm,
    normalize: bool,
) -> Block:
    """A block of a fully connected layer, with the norm of make_norm or without any.

    Raises:
        Refused: units is below 1.
    """
    if units < 1:
        raise Refused("hidden", units, "must be >= 1")
    linear = nn.Linear(in_features, units)
    norm = make_norm((units,)) if normalize else NoNorm((units,))
    return Block(linear, norm, make_neuron())
