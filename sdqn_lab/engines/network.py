"""A small network whose parameters lie in one flat array, where compiled code reads and moves them.

The network's own parameters become views of that array: whoever reads, saves or loads them sees and
changes the same numbers, and nothing is ever copied back.
"""

import math
import weakref
from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from sdqn_lab.engines.kernels import Engine, Part, Whole, backward, forward
from sdqn_lab.networks.blocks import Block, ConvolutionalTorso, Torso, hooks_of, is_hooked
from sdqn_lab.networks.network import SpikingNetwork
from sdqn_lab.spiking.encoder import Direct
from sdqn_lab.spiking.kernels.cpu import LayerConstants
from sdqn_lab.spiking.kernels.vectors import TILE
from sdqn_lab.spiking.neuron import ReLU
from sdqn_lab.spiking.norm import NoNorm, Norm, PopNorm
from sdqn_lab.spiking.readout import MeanSpikes

Array = npt.NDArray[Any]
CHANNELS, UNITS = 16, 32
"""Convolutions have a multiple of so many channels, fully connected layers of so many units."""
FOREIGN = "a network other than minatar and mlp"


def obstacle(network: nn.Module) -> str | None:
    """What the compiled code lacks for this network, in a few words; None if nothing."""
    return next(_obstacles(network), None) if type(network) is SpikingNetwork else FOREIGN


def _obstacles(network: SpikingNetwork) -> Iterator[str]:
    """One after the other; what is behind the first may not make sense."""
    if type(network.encoder) is not Direct:
        yield "an encoder other than direct"
    if any(type(readout) is not MeanSpikes for readout in network.heads.values()):
        yield "a readout other than one of mean spikes"
    if any(is_hooked(module) for module in network.modules()):
        yield "modules with hooks"
    parameters = list(network.parameters())
    if any(not p.is_cpu for p in parameters):
        yield "another device than the CPU"
    if {p.dtype for p in parameters} not in ({torch.float32}, {torch.float64}):
        yield "another type than float32"
    torsos = network.torsos().values()
    yield from filter(None, map(_torso_obstacle, torsos))
    blocks = [block for torso in torsos for block in _blocks(torso)]
    if len({block.neuron.temporal for block in blocks}) > 1:
        yield "neurons with and without time"
    yield from filter(None, map(_block_obstacle, blocks))


def _torso_obstacle(torso: nn.Module) -> str | None:
    """Why the form of a torso is none that the compiled code knows."""
    blocks = list(torso.children())
    if type(torso).forward not in (Torso.forward, ConvolutionalTorso.forward) or any(
        type(block) is not Block for block in blocks
    ):
        return FOREIGN
    first, *others = [cast(Block, block).linear for block in blocks]
    if any(type(linear) is not nn.Linear for linear in others):
        return "more than one convolution"
    if type(first) is nn.Conv2d:
        plain = (first.stride, first.padding, first.dilation, first.groups)
        if plain != ((1, 1), (0, 0), (1, 1), 1) or len({*first.kernel_size}) > 1:
            return "convolutions that are not square, with stride 1"
    return None


def _block_obstacle(block: Block) -> str | None:
    width = {nn.Conv2d: CHANNELS, nn.Linear: UNITS}.get(type(block.linear))
    if width is None or len(_weight(block)) % width or block.linear.bias is None:
        return f"layers whose width is no multiple of {CHANNELS} (convolution) or {UNITS}"
    if block.precision != "float32":
        return f"precision={block.precision}"
    if type(block.norm) not in (PopNorm, NoNorm):
        return "a norm other than popnorm and none"
    if block.neuron.backend not in ("auto", "compiled"):
        return f"{type(block.neuron).__name__} with backend={block.neuron.backend}"
    if type(block.neuron) is not ReLU and block.neuron.kernel_constants() is None:
        return "a neuron or surrogate without kernels"
    return None


def _blocks(torso: nn.Module) -> list[Block]:
    return [block for block in torso.children() if isinstance(block, Block)]


def _weight(block: Block) -> Tensor:
    return cast(Tensor, block.linear.weight)


def _shape(block: Block) -> tuple[int, ...]:
    return cast(Norm, block.norm).normalized_shape


def _units(block: Block) -> int:
    return math.prod(_shape(block))


_COMPILED: "weakref.WeakKeyDictionary[nn.Module, CompiledNetwork]" = weakref.WeakKeyDictionary()
ROOMS = 4
"""Sizes of batches for which room is kept, of updates and of decisions."""
STORED = {4: (2, 3, 1, 0), 3: (0, 1, 2), 2: (1, 0), 1: (0,)}
"""By a parameter's dimensions, the order of its axes in memory: inputs of a map are rows."""


def compiled(network: nn.Module) -> "CompiledNetwork | None":
    """The compiled form of a network, one for all who ask; None if there is an `obstacle`."""
    known = _COMPILED.get(network)
    if known is not None and known.attached:
        return known
    if obstacle(network) is not None:
        return None
    _COMPILED[network] = CompiledNetwork(cast(SpikingNetwork, network))
    return _COMPILED[network]


class Branch(NamedTuple):
    """A torso with the heads that read it.

    Attributes:
        blocks: of the torso.
        first: number of the first block among all layers.
        columns: of its heads among all outputs.
    """

    blocks: list[Block]
    first: int
    columns: slice


class CompiledNetwork:
    """Outputs and gradients of a network by compiled code.

    Args:
        network: one without an `obstacle`. From here on its parameters are views of `parameters`.

    Attributes:
        parameters: all of them, flat: torso by torso, each before the heads that read it.
        gradient: likewise; `backward` adds to it.
        layers: names of the layers in this order, as `SpikingNetwork.layers` names them.
        bounds: where each layer's parameters begin, and where the last one's end; `log_std`, which
            is no layer's, lies behind them.
        own: the network's parameters, in this order.
        dtype: of all of them.
    """

    def __init__(self, network: SpikingNetwork) -> None:
        self._network = weakref.ref(network)
        self._heads: dict[str, slice] = {}
        self._branches: list[Branch] = []
        parts, width = list[nn.Module](), 0
        for prefix, torso in network.torsos().items():
            blocks, first, begin = _blocks(torso), len(parts), width
            parts += blocks
            for head, readout in network.heads.items():
                if prefix == (f"{head}." if head in network.own_torsos else ""):
                    self._heads[head] = slice(width, width + len(readout.linear.weight))
                    width = self._heads[head].stop
                    parts.append(readout)
            self._branches.append(Branch(blocks, first, slice(begin, width)))
        self._read = {readout.linear.weight for readout in network.heads.values()}
        self.own = [parameter for part in parts for parameter in part.parameters()]
        self.own += [] if network.log_std is None else [network.log_std]
        self.dtype = self.own[0].dtype
        flat = torch.cat([parameter.detach().flatten() for parameter in self.own])
        for parameter, view in zip(self.own, self.views(flat), strict=True):
            view.copy_(parameter.detach().clone())
            parameter.data = view
        self.parameters: Array = flat.numpy()
        self.gradient = np.zeros_like(self.parameters)
        names = {layer: name for name, layer in network.layers()}
        self.layers = [names[part] for part in parts]
        sizes = [sum(p.numel() for p in part.parameters()) for part in parts]
        self.bounds = np.cumsum([0, *sizes])
        self._deviations = slice(self.bounds[-1], None)
        block = self._branches[0].blocks[0]
        shape = tuple(_first_map(block)[key] for key in ("channels", "height", "width"))
        self._observation_shape = shape if isinstance(block.linear, nn.Conv2d) else shape[:1]
        # Looked up anew each time: a module may have been given other parameters.
        own = [module._parameters for module in network.modules()]
        self._found = [(held, name) for held in own for name, p in held.items() if p is not None]
        self._places = self._lie()
        self._hooks = [hooks for module in network.modules() for hooks in hooks_of(module)]
        inner = [module._modules for module in network.modules()]
        self._parts = [(held, name, part) for held in inner for name, part in held.items()]
        self._decisions: dict[tuple[int, int], list[Engine]] = {}
        self._updates: dict[tuple[int, int], list[Engine]] = {}

    def views(self, flat: Tensor) -> list[Tensor]:
        """Parts of a flat tensor as the network's parameters, in their order and shapes."""
        found, at = [], 0
        for parameter in self.own:
            # A readout's rows are read one after the other, those of all other maps by inputs.
            axes = (0, 1) if parameter in self._read else STORED[parameter.dim()]
            stored = [parameter.shape[axis] for axis in axes]
            inverse = [axes.index(axis) for axis in range(len(axes))]
            found.append(flat[at : at + parameter.numel()].view(stored).permute(inverse))
            at += parameter.numel()
        return found

    @property
    def attached(self) -> bool:
        """Whether the network's parts and parameters are still these, and no module has a hook."""
        if any(self._hooks) or any(held.get(name) is not part for held, name, part in self._parts):
            return False
        return self._places == self._lie()

    def _lie(self) -> list[int]:
        """Where the network's parameters lie."""
        parameters = [held[name] for held, name in self._found]
        return [parameter.data_ptr() for parameter in parameters if parameter is not None]

    @property
    def _alive(self) -> SpikingNetwork:
        network = self._network()
        assert network is not None  # who calls this one has it
        return network

    def values(self, observations: Array, time_window: int | None = None) -> Array:
        """Outputs (N, K) for observations (N, ...), all heads' side by side; see `by_head`.

        time_window None means the network's own.

        Raises:
            ValueError: observations of another shape, which compiled code would read as they lie.
        """
        network = self._alive
        # Spiking samples are worked off one by one and leave nothing, so room for one is enough.
        samples = 1 if network.temporal else -(-len(observations) // TILE) * TILE
        key = network.steps(time_window), samples
        return self._forward(self._kept(self._decisions, key), observations, key[0], False)

    def by_head(self, outputs: Tensor) -> dict[str, Tensor]:
        """Outputs (B, K), as those of each head by its name."""
        found = {head: outputs[:, columns] for head, columns in self._heads.items()}
        if (head := self._alive.gaussian_head) is not None:
            behind = outputs[:, self._branches[-1].columns.stop :]
            found[head] = torch.cat([found[head], behind], dim=1)
        return found

    def forward(self, observations: Array) -> Array:
        """Outputs (B, K) for observations (B, ...), and what `backward` needs; see `values`."""
        key = self._key(len(observations))
        return self._forward(self._kept(self._updates, key), observations, key[0], True)

    def backward(self, observations: Array, of_outputs: Array) -> None:
        """Add to `gradient`, from the gradient (B, K) of what `forward` gave for them."""
        key, flat = self._key(len(observations)), self._flat(observations)
        for engine, branch in zip(self._updates[key], self._branches, strict=True):
            part = np.ascontiguousarray(of_outputs[:, branch.columns])
            backward(engine, flat, key[0], part, self.gradient)
        behind = of_outputs[:, self._branches[-1].columns.stop :]
        self.gradient[self._deviations] += behind.sum(axis=0)

    def _key(self, batch: int) -> tuple[int, int]:
        """T, and the samples of a batch rounded up: batches of about one size share their room."""
        return self._alive.steps(None), -(-batch // TILE) * TILE

    def _kept(
        self, rooms: dict[tuple[int, int], list[Engine]], key: tuple[int, int]
    ) -> list[Engine]:
        """Room for so many steps and samples, made at the first call."""
        if key not in rooms:
            # Batches of whole episodes have many sizes, and room for each of them would add up.
            if len(rooms) == ROOMS:
                del rooms[next(iter(rooms))]
            rooms[key] = [self._engine(branch, *key) for branch in self._branches]
        return rooms[key]

    def _forward(self, engines: list[Engine], observations: Array, steps: int, keep: bool) -> Array:
        flat, outs = self._flat(observations), []
        for engine, (_, _, columns) in zip(engines, self._branches, strict=True):
            out = np.empty((len(flat), columns.stop - columns.start), self.parameters.dtype)
            forward(engine, flat, steps, keep, out)
            outs.append(out)
        if len(behind := self.parameters[self._deviations]):
            outs.append(np.broadcast_to(behind, (len(flat), len(behind))))
        return outs[0] if len(outs) == 1 else np.concatenate(outs, axis=1)

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

    def _engine(self, branch: Branch, steps: int, batch: int) -> Engine:
        """Room for so many steps and samples, and the table that says where everything lies."""
        network, real = self._alive, self.parameters.dtype.type
        layers = [_constants(block, real) for block in branch.blocks]
        bounds = self.bounds[branch.first :].tolist()
        layout = _Layout(branch.blocks, bounds, network.temporal, steps, batch)
        whole = layout.whole()
        parts = [layout.part(index, layer) for index, layer in enumerate(layers)]
        scale = [network.observation_scale, 0, 0, 0, 0, 0]
        constants = np.array([scale, *(layer[:6] for layer in layers)], real)
        table = np.zeros((1 + len(parts), len(Part._fields)), np.int64)
        table[0, : len(whole)] = whole
        table[1:] = parts
        # Zeros, because the rows beyond the batch take part in products.
        zeros = np.zeros(layout.reals.size, real)
        return Engine(self.parameters, constants, table, zeros, layout.places(whole, parts[0]))


class _Room:
    """Places in an array that is made when all are given away."""

    def __init__(self) -> None:
        self.size = 0

    def take(self, length: int) -> int:
        """Where so many elements begin; at whole cache lines."""
        begin, self.size = self.size, self.size + -(-length // 16) * 16
        return begin


class _Layout:
    """Where everything lies that so many steps T and samples B need.

    Args:
        blocks: of a torso that is covered.
        bounds: where the parameters of each begin, and those of the first head.
        temporal: whether the neurons know time.
        steps: T.
        batch: B, whole tiles unless samples are worked off one by one.
    """

    def __init__(
        self, blocks: list[Block], bounds: list[int], temporal: bool, steps: int, batch: int
    ) -> None:
        self._blocks, self._bounds, self._temporal = blocks, bounds, temporal
        self._steps, self._batch = steps, batch
        self._length = -(-steps * batch // TILE) * TILE
        self.reals, self.integers = _Room(), _Room()

    def whole(self) -> Whole:
        """What all layers share: the form of the first map, and room that each uses in turn."""
        reals, integers, steps, batch = self.reals, self.integers, self._steps, self._batch
        first, widest = _first_map(self._blocks[0]), max(map(_units, self._blocks))
        side, inputs = first["kernel"] - 1, first["channels"] * first["height"] * first["width"]
        return Whole(
            **first,
            spiking=int(self._temporal),
            head=self._bounds[len(self._blocks)],
            scratch=reals.take(4 * widest),
            charged=reals.take(steps * widest),
            widest=widest,
            found=integers.take(max(widest, inputs) + TILE),
            padded=reals.take(
                (first["height"] + side) * (first["width"] + side) * first["filters"]
            ),
            places=integers.take(inputs),
            rows=integers.take(inputs),
            taps=integers.take(2 * first["kernel"] ** 2),
            of_classes=reals.take(batch * steps * widest),
            starts=integers.take(widest + 2),
            entries=integers.take(batch * steps * widest),
            length=self._length,
        )

    def part(self, index: int, layer: LayerConstants) -> Part:
        """A layer's own."""
        reals, integers, steps, batch = self.reals, self.integers, self._steps, self._batch
        block, length, weight = self._blocks[index], self._length, self._bounds[index]
        units, entries = _units(block), 1 if index == 0 else steps
        bias = weight + _weight(block).numel()
        # Products of whole batches write whole tiles.
        samples = batch if self._temporal else length
        # Neurons that are not periodic are listed for each of their spikes, the last layer's never.
        listed = self._temporal and index < len(self._blocks) - 1
        room = units * steps if listed else 0
        # Whether a charge under a constant current, once above the threshold, stays there.
        stays = layer.slope_x <= 1 if layer.leaky else layer.slope_x == layer.slope_v == 1
        periodic = index == 0 and layer.hard and layer.slope_x > 0 and stays
        return Part(
            *(units, entries, room, weight, bias, bias + len(_weight(block))),
            currents=reals.take(samples * entries * units),
            moments=reals.take(batch * entries * 2),
            activity=reals.take(samples * units),
            spikes=integers.take(batch * room + TILE),
            classes=integers.take(batch * (steps + 2)),
            of_currents=reals.take(length * units),
            columns=reals.take(length * units),
            of_activity=reals.take(length * units),
            surrogate=layer.surrogate,
            leaky=layer.leaky,
            hard=layer.hard,
            detach_reset=layer.detach_reset,
            normalize=layer.normalize,
            periodic=bool(periodic),
        )

    def places(self, whole: Whole, first: Part) -> npt.NDArray[np.int32]:
        """All room for integers, with where each input's currents and rows of weights lie."""
        side, inputs = whole.kernel - 1, whole.channels * whole.height * whole.width
        places = np.zeros(self.integers.size, np.int32)
        channel, y, x = np.indices((whole.channels, whole.height, whole.width)).reshape(3, -1)
        line = whole.width + side
        firsts = ((y + side) * line + x + side) * whole.filters
        places[whole.places :][:inputs] = whole.padded + firsts
        row, column = np.indices((whole.kernel, whole.kernel)).reshape(2, -1)
        steps_back = (row * line + column) * whole.filters
        rows_on = np.arange(whole.kernel**2) * whole.channels * whole.filters
        places[whole.taps :][: 2 * whole.kernel**2] = [*-steps_back, *rows_on]
        places[whole.rows :][:inputs] = first.weight + channel * whole.filters
        return places


def _first_map(block: Block) -> dict[str, int]:
    """The shape of the observation, and the kernel and filters of the map."""
    filters, *pixels = _shape(block)
    channels, *kernels = _weight(block).shape[1:]
    kernel = kernels[0] if kernels else 1
    height, width = (size + kernel - 1 for size in pixels or (1, 1))
    shape = {"channels": channels, "height": height, "width": width}
    return {**shape, "kernel": kernel, "filters": filters}


def _constants(block: Block, real: Any) -> LayerConstants:
    """Neuron and norm of a layer; of a ReLU only the norm counts."""
    layer = block.neuron.kernel_constants(real)
    if layer is None:
        layer = LayerConstants._make([real(0)] * 6 + [0] + [False] * 4)
    if type(block.norm) is not PopNorm:
        return layer
    return layer._replace(eps=real(block.norm.eps), normalize=True)
