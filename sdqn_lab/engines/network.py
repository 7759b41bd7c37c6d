"""A small network whose parameters lie in one flat array, where compiled code reads and moves them.

The network's own parameters become views of that array: whoever reads, saves or loads them sees and
changes the same numbers, and nothing is ever copied back.
"""

import math
import weakref
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from sdqn_lab.engines.kernels import Engine, Part, Whole, backward, forward
from sdqn_lab.engines.vectors import LANES
from sdqn_lab.networks.blocks import Block, ConvolutionalTorso, hooks_of, is_hooked
from sdqn_lab.networks.mlp import MLP
from sdqn_lab.networks.network import SpikingNetwork
from sdqn_lab.spiking.encoder import Direct
from sdqn_lab.spiking.kernels.cpu import LayerConstants
from sdqn_lab.spiking.neuron import ReLU
from sdqn_lab.spiking.norm import NoNorm, PopNorm
from sdqn_lab.spiking.readout import MeanSpikes

Array = npt.NDArray[Any]
WIDTH = 16
"""Layers have a multiple of so many channels or units."""
FOREIGN = "a network other than minatar and mlp"


def obstacle(network: nn.Module) -> str | None:
    """What the compiled code lacks for this network, in a few words; None if nothing."""
    if type(network) is not SpikingNetwork:
        return FOREIGN
    if type(network.encoder) is not Direct:
        return "an encoder other than direct"
    if [type(readout) for readout in network.heads.values()] != [MeanSpikes]:
        return "a readout other than one of mean spikes"
    torso = network.torso
    blocks = [block for block in torso.children() if type(block) is Block]
    first = blocks[0].linear if blocks else None
    forms = (ConvolutionalTorso.forward, MLP.forward)
    convolutions = [block for block in blocks if isinstance(block.linear, nn.Conv2d)]
    if type(torso).forward not in forms or len(blocks) != len(list(torso.children())):
        return FOREIGN
    if len(convolutions) > 1 or (isinstance(first, nn.Conv2d) and not _is_plain(first)):
        return "more than one convolution, or one with strides"
    parameters = list(network.parameters())
    if any(not p.is_cpu for p in parameters) or len({p.dtype for p in parameters}) > 1:
        return "another device than the CPU"
    if parameters[0].dtype not in (torch.float32, torch.float64):
        return "another type than float32"
    if len({block.neuron.temporal for block in blocks}) > 1:
        return "neurons with and without time"
    return next(filter(None, map(_block_obstacle, blocks)), None) or _hooked(network)


def _is_plain(convolution: nn.Conv2d) -> bool:
    kernel, stride = convolution.kernel_size, convolution.stride
    plain = (convolution.padding, convolution.dilation, convolution.groups) == ((0, 0), (1, 1), 1)
    return plain and kernel[0] == kernel[1] and stride == (1, 1) and convolution.bias is not None


def _block_obstacle(block: Block) -> str | None:
    if block.precision != "float32":
        return "a precision other than float32"
    if type(block.linear) not in (nn.Conv2d, nn.Linear) or len(block.linear.weight) % WIDTH:
        return f"layers whose width is no multiple of {WIDTH}"
    if type(block.norm) not in (PopNorm, NoNorm):
        return "a norm other than popnorm and none"
    if block.neuron.backend not in ("auto", "compiled"):
        return f"backend={block.neuron.backend}"
    if type(block.neuron) is not ReLU and block.neuron.kernel_constants() is None:
        return "a neuron or surrogate without kernels"
    return None


def _hooked(network: nn.Module) -> str | None:
    return "modules with hooks" if any(map(is_hooked, network.modules())) else None


_COMPILED: "weakref.WeakKeyDictionary[nn.Module, CompiledNetwork]" = weakref.WeakKeyDictionary()
STORED = {4: (2, 3, 1, 0), 3: (1, 2, 0), 2: (1, 0), 1: (0,)}
"""By a parameter's dimensions, the order of its axes in memory: inputs are rows, channels last."""


def compiled(network: nn.Module) -> "CompiledNetwork | None":
    """The compiled form of a network, one for all who ask; None if there is an `obstacle`."""
    known = _COMPILED.get(network)
    if known is not None and known.attached:
        return known
    if obstacle(network) is not None:
        return None
    _COMPILED[network] = CompiledNetwork(cast(SpikingNetwork, network))
    return _COMPILED[network]


class CompiledNetwork:
    """Values and gradients of a network by compiled code.

    Args:
        network: one without an `obstacle`. From here on its parameters are views of `parameters`.

    Attributes:
        parameters: all of them, flat, in their order.
        gradient: likewise; `backward` adds to it.
        layers: names of the layers, as `SpikingNetwork.layers` names them.
        bounds: where each layer's parameters begin, and where the last one's end.
        own: the network's parameters.
        dtype: of all of them.
    """

    def __init__(self, network: SpikingNetwork) -> None:
        self._network = weakref.ref(network)
        self.own = list(network.parameters())
        self.dtype = self.own[0].dtype
        flat = torch.cat([parameter.detach().flatten() for parameter in self.own])
        for parameter, view in zip(self.own, self.views(flat), strict=True):
            view.copy_(parameter.detach().clone())
            parameter.data = view
        self.parameters: Array = flat.numpy()
        self.gradient = np.zeros_like(self.parameters)
        self.layers = [name for name, _ in network.layers()]
        sizes = [sum(p.numel() for p in layer.parameters()) for _, layer in network.layers()]
        self.bounds = np.cumsum([0, *sizes])
        first = cast(Any, _blocks(network)[0])
        pixels = first.norm.normalized_shape[1:]
        inputs = first.linear.in_channels if pixels else first.linear.in_features
        kernel = first.linear.kernel_size[0] if pixels else 1
        self._observation_shape = (inputs, *(size + kernel - 1 for size in pixels))
        self._places = [parameter.data_ptr() for parameter in self.own]
        # Looked up anew each time: a module may have been given other parameters.
        own = [module._parameters for module in network.modules()]
        self._found = [(held, name) for held in own for name, p in held.items() if p is not None]
        self._hooks = [hooks for module in network.modules() for hooks in hooks_of(module)]
        self._decisions: dict[int, Engine] = {}
        self._updates: dict[tuple[int, int], Engine] = {}

    def views(self, flat: Tensor) -> list[Tensor]:
        """Parts of a flat tensor as the network's parameters, in their order and shapes."""
        found, at = [], 0
        for parameter in self.own:
            # The readout's rows are read one after the other, those of all other maps by inputs.
            axes = STORED[parameter.dim()] if parameter is not self.own[-1] else (0, 1)
            stored = [parameter.shape[axis] for axis in axes]
            inverse = [axes.index(axis) for axis in range(len(axes))]
            found.append(flat[at : at + parameter.numel()].view(stored).permute(inverse))
            at += parameter.numel()
        return found

    @property
    def attached(self) -> bool:
        """Whether the network's parameters are still these, and no module has a hook."""
        if any(self._hooks):
            return False
        parameters = [held[name] for held, name in self._found]
        return self._places == [p.data_ptr() for p in parameters if p is not None]

    @property
    def _alive(self) -> SpikingNetwork:
        network = self._network()
        assert network is not None  # who calls this one has it
        return network

    def values(self, observations: Array, time_window: int | None = None) -> Array:
        """Values (N, A) of observations (N, ...); time_window None means the network's own.

        Raises:
            ValueError: observations of another shape, which compiled code would read as they lie.
        """
        steps = self._alive.steps(time_window)
        if steps not in self._decisions:
            self._decisions[steps] = self._engine(steps, 1)
        out = np.empty((len(observations), len(self.own[-1])), self.parameters.dtype)
        forward(self._decisions[steps], self._flat(observations), steps, False, out)
        return out

    def forward(self, observations: Array) -> Array:
        """Values (B, A) of observations (B, ...), and what `backward` needs; raises as `values`."""
        steps, batch = self._alive.steps(None), len(observations)
        if (steps, batch) not in self._updates:
            self._updates[steps, batch] = self._engine(steps, batch)
        out = np.empty((batch, len(self.own[-1])), self.parameters.dtype)
        forward(self._updates[steps, batch], self._flat(observations), steps, True, out)
        return out

    def backward(self, observations: Array, of_values: Array) -> None:
        """Add to `gradient`, from the gradient (B, A) of what `forward` gave for them."""
        steps = self._alive.steps(None)
        engine = self._updates[steps, len(observations)]
        backward(engine, self._flat(observations), steps, of_values, self.gradient)

    def _flat(self, observations: Array) -> Array:
        """Observations (N, inputs), as bytes or float32."""
        if observations.shape[1:] != self._observation_shape:
            got, wanted = observations.shape[1:], self._observation_shape
            raise ValueError(f"observations of shape {got}, and the network takes {wanted}")
        size = math.prod(self._observation_shape)
        flat = np.ascontiguousarray(observations).reshape(len(observations), size)
        if flat.dtype == np.bool_:
            return flat.view(np.uint8)
        return flat if flat.dtype in (np.uint8, np.float32) else flat.astype(np.float32)

    def _engine(self, steps: int, batch: int) -> Engine:
        """Room for so many steps and samples, and the table that says where everything lies."""
        blocks, real = _blocks(self._alive), self.parameters.dtype.type
        units = [math.prod(block.norm.normalized_shape) for block in blocks]
        widest, length = max(units), -(-steps * batch // (2 * LANES)) * 2 * LANES
        reals, integers = _Room(), _Room()
        first = blocks[0]
        channels, *pixels = first.norm.normalized_shape
        kernel = first.linear.kernel_size[0] if pixels else 1
        inputs = first.linear.in_channels if pixels else first.linear.in_features
        height, width = (size + kernel - 1 for size in pixels or (1, 1))
        whole = Whole(
            *(inputs, height, width, kernel, channels),
            spiking=int(self._alive.temporal),
            head=int(self.bounds[-2]),
            activity=reals.take(batch * units[-1]),
            scratch=reals.take(4 * widest),
            sums=reals.take((steps + 1) * widest),
            charged=reals.take(steps * widest),
            packed=reals.take(LANES * widest),
            widest=widest,
            found=integers.take(max(widest, inputs * height * width)),
            padded=reals.take((height + kernel - 1) * (width + kernel - 1) * channels),
            places=integers.take(inputs * height * width),
            rows=integers.take(inputs * height * width),
            length=length,
        )
        constants, parts = [np.zeros(6)], []
        constants[0][0] = self._alive.observation_scale
        for number, block in enumerate(blocks):
            layer = _constants(block, real)
            entries, n = (1 if number == 0 else steps), units[number]
            # Neurons that are not periodic are listed for each of their spikes; one place is spare.
            room = n * steps + 1
            weight = int(self.bounds[number])
            bias = weight + block.linear.weight.numel()
            part = Part(
                *(n, entries, room, weight, bias, bias + len(block.linear.weight)),
                currents=reals.take(batch * entries * n),
                moments=reals.take(batch * entries * 2),
                factors=reals.take(batch * room),
                begins=integers.take(batch * room),
                classes=integers.take(batch * (steps + 2)),
                rows=integers.take(n),
                of_currents=reals.take(length * n),
                columns=reals.take(length * n),
                of_spikes=reals.take(length * n),
                surrogate=layer.surrogate,
                leaky=layer.leaky,
                hard=layer.hard,
                detach_reset=layer.detach_reset,
                normalize=layer.normalize,
                # Once above the threshold, such a charge under a constant current stays there.
                periodic=number == 0
                and layer.hard
                and (layer.leaky and 0 < layer.slope_x <= 1 or tuple(layer[:2]) == (1, 1)),
            )
            parts.append(part)
            constants.append(np.array(layer[:6]))
        table = np.zeros((1 + len(parts), len(Part._fields)), np.int64)
        table[0, : len(whole)] = whole
        table[1:] = parts
        # Zeros, because the rows beyond the batch take part in the product.
        room = np.zeros(reals.size, real), np.zeros(integers.size, np.int32)
        channel, y, x = np.indices((inputs, height, width)).reshape(3, -1)
        line = width + kernel - 1
        places = ((y + kernel - 1) * line + x + kernel - 1) * whole.filters
        room[1][whole.places : whole.places + len(x)] = places
        room[1][whole.rows : whole.rows + len(x)] = parts[0].weight + channel * whole.filters
        for number, part in enumerate(parts):
            room[0][part.factors : part.factors + batch * part.room] = 1
            following = blocks[number + 1].linear if number + 1 < len(blocks) else None
            if following is not None:
                # Units lie by pixels and then channels here; the next table by channels first.
                channels = blocks[number].norm.normalized_shape[0]
                places = np.arange(part.units).reshape(channels, -1).T.ravel()
                begins = parts[number + 1].weight + places * len(following.weight)
                room[1][part.rows : part.rows + part.units] = begins
        return Engine(self.parameters, np.array(constants, real), table, *room)


class _Room:
    """Places in an array that is made when all are given away."""

    def __init__(self) -> None:
        self.size = 0

    def take(self, length: int) -> int:
        """Where so many elements begin; at whole cache lines."""
        begin, self.size = self.size, self.size + -(-length // 16) * 16
        return begin


def _blocks(network: SpikingNetwork) -> list[Block]:
    return [block for block in network.torso.children() if isinstance(block, Block)]


def _constants(block: Block, real: Any) -> LayerConstants:
    """Neuron and norm of a layer; of a ReLU only the norm counts."""
    layer = block.neuron.kernel_constants(real)
    layer = layer or LayerConstants(*map(real, [0] * 6), 0, False, False, False, False)
    if type(block.norm) is not PopNorm:
        return layer
    return layer._replace(eps=real(block.norm.eps), normalize=True)
