"""A network as a graph of the Neuromorphic Intermediate Representation (NIR).

NIR says neurons as differential equations. With forward Euler and steps of `DT` they are ours:

    tau_nir dv/dt = (v_leak - v) + r I     with tau_nir = tau DT, r = 1, v_leak = 0 is
    v <- v + (I - v) / tau                 LIF, and PLIF with the tau that was learned
    dv/dt = r I                            with r = 1 / DT is IF: v <- v + I

A neuron fires strictly above its threshold there too. NIR has no norm: what a norm does at
evaluation is folded into the map before it (`Form`).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from types import ModuleType
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from sdqn_lab.checks.extras import NIR
from sdqn_lab.checks.refused import Refused
from sdqn_lab.exporting.folding import IDENTITY, Affine, LinearMap, affine, linear_map, unrolled
from sdqn_lab.networks.blocks import Block, ConvolutionalTorso, Torso
from sdqn_lab.networks.network import SpikingNetwork
from sdqn_lab.spiking.encoder import Direct
from sdqn_lab.spiking.neuron import IF, LIF, PLIF, Neuron
from sdqn_lab.spiking.norm import PopNorm
from sdqn_lab.spiking.readout import (
    DiscountedSpikes,
    FirstSpike,
    LastMembrane,
    MaxMembrane,
    MeanMembrane,
    MeanSpikes,
    MembraneReadout,
    Readout,
)

DT = 1e-4
"""Seconds that stand for a simulation step; a reader, snnTorch, knows no others."""
MAX_DENSE = 2**24
"""Entries of the largest convolution that is written as a dense matrix: 64 MB."""
MEANS = (MeanSpikes, MeanMembrane, FirstSpike)
READOUTS = (*MEANS, LastMembrane, MaxMembrane, DiscountedSpikes)

Form = Literal["maps", "dense", "neurons"]
"""Where norms go: into the maps' weights; likewise, but convolutions are dense matrices, because a
place's gain is its own; or into r and v_leak of the neurons, where those would be too large."""


def package() -> ModuleType:
    """The package `nir`, which not everybody has.

    Raises:
        Refused: it is not installed.
    """
    NIR.demand("--nir")
    import nir

    return cast(ModuleType, nir)


def obstacles(network: SpikingNetwork, head: str, calibrated: bool) -> Iterator[Refused]:
    """All that NIR cannot say of a network, each once.

    Args:
        network: to be exported.
        head: the name of the one that decides.
        calibrated: whether PopNorms will get fixed statistics.
    """
    blocks = list(network.torso.children())
    known = type(network.torso).forward in (Torso.forward, ConvolutionalTorso.forward)
    if not known or any(
        type(block) is not Block or type(block.linear) not in (nn.Conv2d, nn.Linear)
        for block in blocks
    ):
        rule = "is no plain chain of convolutions and fully connected layers"
        yield Refused("network", type(network.torso).__name__, rule, "network=minatar")
        return
    if any(True for _ in network.encoder.parameters()):
        rule = "has learned weights, and encoding is left to the host"
        yield Refused("encoder", type(network.encoder).__name__, rule, "encoder=direct")
    if not all(parameter.isfinite().all() for parameter in network.parameters()):
        yield Refused("network", None, "holds numbers that are not finite", "--network=best")
    found: dict[str, Refused] = {}
    for block in cast(list[Block], blocks):
        # Layers are made alike: what one of them lacks, all lack.
        found |= {refusal.key: refusal for refusal in _of_block(block, calibrated)}
    yield from found.values()
    if type(network.heads[head]) not in READOUTS:
        name = type(network.heads[head]).__name__
        yield Refused("readout", name, "has no form in NIR", "readout=mean_spikes")


def _of_block(block: Block, calibrated: bool) -> Iterator[Refused]:
    if block.precision != "float32":
        rule = "rounds what a graph of NIR would not round"
        yield Refused("precision", block.precision, rule, "float32")
    yield from _of_neuron(block.neuron)
    if type(block.norm) is PopNorm:
        if not calibrated:
            rule = "takes the statistics of each sample, which no node of NIR does"
            instead = "--calibrate-norm=1000, norm=batchnorm or norm=none"
            yield Refused("norm", "PopNorm", rule, instead)
    elif affine(block.norm) is None:
        name = type(block.norm).__name__
        yield Refused("norm", name, "has no form in NIR", "norm=batchnorm or norm=none")


def _of_neuron(neuron: Neuron) -> Iterator[Refused]:
    if type(neuron) not in (LIF, PLIF, IF):
        name = type(neuron).__name__
        yield Refused("neuron", name, "no node of NIR is such a unit", "neuron=lif")
        return
    neuron = cast(LIF | PLIF | IF, neuron)
    if neuron.reset != "hard":
        rule = "neurons of NIR are reset to a value, never by subtraction"
        yield Refused("neuron.reset", neuron.reset, rule, "hard")
    if neuron.v_reset != 0:
        rule = "readers of NIR begin at 0, and most of them reset to 0"
        yield Refused("neuron.v_reset", neuron.v_reset, rule, "0")


def form_of(network: SpikingNetwork, observation_shape: Sequence[int]) -> Form:
    """How a network's norms are folded; a PopNorm counts as fixed already.

    Raises:
        Refused: only the neurons could hold them, and IF cannot.
    """
    shape = network.encoder.shape(tuple(observation_shape))
    entries, differs = [0], False
    for block in cast(list[Block], list(network.torso.children())):
        if isinstance(block.linear, nn.Conv2d):
            after = affine(block.norm)
            differs |= after is None or after.differs_by_place
            entries.append(math.prod(shape) * math.prod(block.norm.normalized_shape))  # type: ignore[arg-type]
        shape = cast(tuple[int, ...], block.norm.normalized_shape)
    if not differs:
        return "maps"
    if max(entries) <= MAX_DENSE:
        return "dense"
    if any(isinstance(module, IF) for module in network.modules()):
        rule = "has no leak, which at this size would have to hold the norm"
        raise Refused("neuron", "IF", rule, "neuron=lif or norm=batchnorm")
    return "neurons"


def statistic(readout: Readout, time_window: int) -> dict[str, Any]:
    """What the host makes of a graph's outputs y_0, ..., y_(T-1), for the metadata.

    Either sum_t weights_t y_t, or the maximum over t.
    """
    if isinstance(readout, MaxMembrane):
        return {"statistic": "max"}
    weights = np.full(time_window, 1 / time_window)
    if isinstance(readout, LastMembrane):
        weights = np.eye(time_window)[-1]
    elif isinstance(readout, DiscountedSpikes):
        weights = (1 - 1 / readout.tau) ** np.arange(time_window) / readout.tau
    return {"statistic": "sum", "statistic_weights": weights}


class Chain:
    """Nodes in a row, each fed by the one before.

    Args:
        shape: of the input at one step.
        form: where norms go.
    """

    def __init__(self, shape: Sequence[int], form: Form) -> None:
        self._nir = package()
        self._form = form
        self._nodes: dict[str, Any] = {}
        self._add("input", self._nir.Input({"input": np.array(shape)}))
        # What goes from node to node: as the layers see it, and as the nodes do.
        self._image = self._shape = tuple(shape)

    def block(self, name: str, block: Block, scale: float) -> None:
        """Append the map `<name>_map` of x / scale and the neurons `<name>`, norm folded."""
        linear, after = block.linear, affine(block.norm)
        assert after is not None and isinstance(linear, nn.Conv2d | nn.Linear)
        in_neurons = self._form == "neurons" and after.differs_by_place
        folded = IDENTITY if in_neurons else after
        shape = cast(tuple[int, ...], block.norm.normalized_shape)
        if isinstance(linear, nn.Linear):
            self._affine(name, linear_map(linear, scale).then(folded))
        elif self._form == "dense":
            matrix = unrolled(linear, self._image, scale)
            self._affine(name, matrix.then(folded.over(shape)))
        else:
            found, given = linear_map(linear, scale).then(folded), linear.padding
            padding = given if isinstance(given, str) else np.array(given)
            node = self._nir.Conv2d(
                input_shape=self._shape[1:],
                weight=_array(found.weight),
                bias=_array(found.bias),
                stride=linear.stride,
                padding=padding,
                dilation=linear.dilation,
                groups=linear.groups,
            )
            self._add(f"{name}_map", node)
            self._shape = shape
        self._image = shape
        neuron = cast(LIF | PLIF | IF, block.neuron)
        # Learned, a threshold is one for all or one a channel.
        threshold = torch.as_tensor(neuron.threshold(torch.empty(1, *self._shape)))
        limits = {"v_threshold": threshold, "v_reset": torch.tensor(0.0)}
        arrays = {key: _array(value.expand(self._shape)) for key, value in limits.items()}
        if isinstance(neuron, IF):
            units = self._nir.IF(r=np.full(self._shape, 1 / DT, np.float32), **arrays)
        else:
            tau = 1 + math.exp(-neuron.w.item()) if isinstance(neuron, PLIF) else neuron.tau
            units = self._nir.LIF(**self._leaky(tau, after if in_neurons else IDENTITY), **arrays)
        self._add(name, units)

    def readout(self, readout: Readout) -> None:
        """Append a head's map `readout_map`, and what it integrates with."""
        nir = self._nir
        if isinstance(readout, FirstSpike):
            # Whether a unit has fired by step t: its share of the T steps is 1 - t / T.
            ones = np.ones(self._shape, np.float32)
            self._add("readout_count", nir.I(r=ones / np.float32(DT)))
            self._add("readout_fired", nir.Threshold(threshold=0.5 * ones))
        self._add("readout_map", nir.Linear(weight=_array(readout.linear.weight)))
        self._shape = (len(readout.linear.weight),)
        if isinstance(readout, MembraneReadout) and not isinstance(readout, DiscountedSpikes):
            self._add("readout", nir.LI(**self._leaky(readout.tau, IDENTITY)))

    def graph(self, metadata: Mapping[str, Any]) -> Any:
        """The whole as a `nir.NIRGraph`, its end appended."""
        self._add("output", self._nir.Output({"output": np.array(self._shape)}))
        names = list(self._nodes)
        edges = list(pairwise(names))
        return self._nir.NIRGraph(nodes=self._nodes, edges=edges, metadata=dict(metadata))

    def _add(self, name: str, node: Any) -> None:
        self._nodes[name] = node

    def _affine(self, name: str, found: LinearMap) -> None:
        if len(self._shape) > 1:
            # Counted from the end: readers disagree on whether the batch counts as a dimension.
            ends = {"start_dim": -len(self._shape), "end_dim": -1}
            shape = {"input": np.array(self._shape)}
            self._add(f"{name}_flatten", self._nir.Flatten(input_type=shape, **ends))
        node = self._nir.Affine(weight=_array(found.weight), bias=_array(found.bias))
        self._add(f"{name}_map", node)
        self._shape = (len(found.bias),)

    def _leaky(self, tau: float, after: Affine) -> dict[str, npt.NDArray[np.float32]]:
        """Of a leaky unit whose current is gain I + shift."""
        gain, shift = (_array(each.expand(self._shape)) for each in after)
        return {"tau": np.full(self._shape, tau * DT, np.float32), "r": gain, "v_leak": shift}


def _array(tensor: Tensor) -> npt.NDArray[np.float32]:
    return np.ascontiguousarray(tensor.detach().numpy(), np.float32)


def nir_graph(
    network: SpikingNetwork,
    head: str,
    observation_shape: Sequence[int],
    metadata: Mapping[str, Any],
) -> Any:
    """A network up to the outputs of one head, as a `nir.NIRGraph`.

    Nodes are called as the layers; see `Chain`. The input is what the encoder gives at one step;
    under `direct` that is the observation itself, not scaled.

    Args:
        network: without `obstacles`.
        head: the name of the one that decides.
        observation_shape: (C, H, W) or (F,).
        metadata: of the graph.

    Raises:
        Refused: `nir` is not installed, or the norms fit nowhere.
    """
    form = form_of(network, observation_shape)
    chain = Chain(network.encoder.shape(tuple(observation_shape)), form)
    scale = scale_in_weights(network)
    for name, block in network.torso.named_children():
        chain.block(name, cast(Block, block), scale)
        scale = 1.0
    chain.readout(network.heads[head])
    return chain.graph({**metadata, "norms_in": form})


def scale_in_weights(network: SpikingNetwork) -> float:
    """By what the first map divides its input; what other encoders need scaled is the host's."""
    return network.observation_scale if type(network.encoder) is Direct else 1.0
