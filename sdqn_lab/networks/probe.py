"""What a decision costs and what its potentials look like, measured layer by layer.

Synaptic operations are counted exactly: every input that is not zero is one operation for each
synapse that leaves it, and inputs at the border of a convolution have fewer of them. What an
operation costs is arithmetic on these counts and lives elsewhere.
"""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from sdqn_lab.checks.refused import Refused
from sdqn_lab.networks.blocks import Block
from sdqn_lab.networks.network import SpikingNetwork
from sdqn_lab.spiking.neuron import Neuron, SpikingNeuron
from sdqn_lab.spiking.readout import PopulationRates, Readout
from sdqn_lab.spiking.stats import SpikeRecorder

BINS = 64
LIMIT = 4.0
"""Histograms have equal bins over [-LIMIT, LIMIT), in units of v_threshold. A bin holds its lower
edge; the outer two also take what lies beyond, the upper one what is not a number."""


@dataclass(frozen=True)
class LayerProbe:
    """One layer: a linear map with the norm and neuron behind it.

    Attributes:
        name: its place in the torso (`conv1`, ..., `hidden`; in the own torso of a head behind the
            head's name, `value.hidden`), or a head's name as `SpikingNetwork.layers` gives it: the
            readout's linear map.
        parameters: trainable numbers of linear map, norm and neuron.
        synapses: multiply-adds of one dense pass for one sample, without the bias.
        analog: whether its input consists of numbers; else it is spikes, 0 or 1.
        passes: how often the map runs for one decision: T, or 1 where its input is constant.
        operations: per decision, synapses whose input is not zero, summed over the passes, mean
            over samples.
        firing_rate: share of active entries of the neuron, as `SpikeRecorder` counts it; None
            without neuron.
        current: histogram of the map's output, as shares of all entries; None for the head.
        normalized: the same of the norm's output.
        membrane: the same of the membrane after charge and before reset, over all T steps; None
            where there is none.
    """

    name: str
    parameters: int
    synapses: int
    analog: bool
    passes: int
    operations: float
    firing_rate: float | None
    current: list[float] | None
    normalized: list[float] | None
    membrane: list[float] | None


@dataclass(frozen=True)
class Probe:
    """A network on one batch of observations.

    Attributes:
        temporal: whether its neurons integrate over time.
        time_window: T of the decisions; 1 without time.
        samples: observations in the batch.
        layers: from the observation to the head.
    """

    temporal: bool
    time_window: int
    samples: int
    layers: list[LayerProbe]


@torch.no_grad()
def blocks_of(network: SpikingNetwork) -> Iterator[tuple[str, Block, bool]]:
    """Every block at any depth by its name, and whether a torso begins with it; heads come last."""
    for prefix, torso in network.torsos().items():
        begins = True
        for name, module in torso.named_modules():
            if isinstance(module, Block):
                yield prefix + name, module, begins
                begins = False
    for name, module in network.named_modules():
        if isinstance(module, Block) and name.partition(".")[0].endswith("readout"):
            yield name, module, False


def probe(
    network: SpikingNetwork,
    observations: Tensor,
    *,
    time_window: int | None = None,
    generator: torch.Generator | None = None,
) -> Probe:
    """Count the synaptic operations of a batch and take histograms of its potentials.

    A copy of the network runs in evaluation mode, so neither the network nor any random stream is
    moved. Inputs, spikes and counts are those of the network's own forward, up to the rounding of
    maps, which are called as they are; membranes come from the neuron's plain steps on the same
    currents. For counting, each spike that reaches the head is worked off at its own step, although
    the mean of spikes is mapped once.

    Args:
        network: made of blocks, each of which runs once in a forward; others are not seen.
        observations: (B, ...) with B >= 1, on the network's device, as for its forward.
        time_window: T; None: the network's own.
        generator: whose present state random encoders and neurons begin with, on the same device;
            None: a fixed seed.

    Raises:
        Refused: there are no observations, or time_window is below 1.
    """
    if not len(observations):
        raise Refused("observations", tuple(observations.shape), "must not be empty")
    # A copy: hooks, evaluation mode and patched neurons must not reach the network itself.
    network = deepcopy(network).eval()
    blocks = list(blocks_of(network))
    heads = {name: layer for name, layer in network.layers() if isinstance(layer, Readout)}
    modules = [module for _, block, _ in blocks for module in (block, block.linear)]
    watched = [*modules, *heads.values()]
    flows: dict[nn.Module, tuple[Tensor, Tensor]] = {}  # what went in, and what came out

    def keep(module: nn.Module, inputs: tuple[Tensor, ...], outputs: Tensor) -> None:
        flows[module] = inputs[0], outputs

    hooks = [module.register_forward_hook(keep) for module in watched]
    draws = generator.clone_state() if generator else torch.Generator(observations.device)
    with SpikeRecorder(network) as recorder:
        network(observations, time_window=time_window, generator=draws)
    # `fan_out` calls the maps again, which is not to be kept.
    for hook in hooks:
        hook.remove()
    first, firing, layers = flows[watched[0]][0], recorder.layers(), []
    analog = encoded = network.encoder.constant or bool(((first != 0) & (first != 1)).any())
    for name, block, begins in blocks:
        analog = encoded if begins else analog
        (x_seq, activity), (inputs, currents) = flows[block], flows[block.linear]
        steps = len(activity)
        inputs = inputs.view(*x_seq.shape[:2], *inputs.shape[1:])
        # Under bf16 the hook sees a map's result before the block takes it back to float32.
        currents = currents.view(*x_seq.shape[:2], *currents.shape[1:]).to(x_seq.dtype)
        normalized = block.norm(currents, repeats=steps // len(x_seq))
        with network.drawing(draws):
            membrane = _membrane(block.neuron, normalized.expand(steps, *normalized.shape[1:]))
        counted = _counted(block, block.linear, inputs, analog)
        shares = _shares(currents, block.neuron), _shares(normalized, block.neuron), membrane
        layers.append(LayerProbe(name, *counted, firing[name].firing_rate, *shares))
        analog = not isinstance(block.neuron, SpikingNeuron)
    for name, head in heads.items():
        spikes, own = flows[head][0], cast(nn.Module, head)
        if isinstance(head, PopulationRates):
            fired = flows[head.population][1]
            spikes, own = fired.view(*fired.shape[:2], -1, head.units), head.linear
        counted = _counted(own, head.linear, spikes, analog)
        layers.append(LayerProbe(name, *counted, None, None, None, None))
    return Probe(network.temporal, len(spikes), len(observations), layers)


def multiply_adds(network: SpikingNetwork, observation_shape: tuple[int, ...]) -> dict[str, int]:
    """Multiply-adds of one dense pass of each layer's map for one sample, without the bias."""
    device = next(network.parameters()).device
    seen = probe(network, torch.zeros(1, *observation_shape, device=device), time_window=1)
    return {layer.name: layer.synapses for layer in seen.layers}


def fan_out(linear: nn.Module, input_shape: tuple[int, ...]) -> Tensor:
    """Synapses that leave each input of a linear map, exact at borders too.

    The gradient of the sum of all outputs counts them, once all weights are 1.

    Args:
        linear: a map of (N, *input_shape).
        input_shape: of one sample.

    Returns:
        int64 (*input_shape), on the CPU.
    """
    ones = {name: torch.ones(factor.shape) for name, factor in linear.named_parameters()}
    # `probe` runs without gradients; sums of ones in float32 are exact.
    with torch.enable_grad():
        x = torch.zeros(1, *input_shape, requires_grad=True)
        (counts,) = torch.autograd.grad(functional_call(linear, ones, (x,)).sum(), x)
    return counts[0].round().long()


def _counted(
    layer: nn.Module, linear: nn.Module, x_seq: Tensor, analog: bool
) -> tuple[int, int, bool, int, float]:
    """The fields from `parameters` to `operations`; x_seq (passes, B, ...) is the map's input."""
    passes, samples = x_seq.shape[:2]
    synapses = fan_out(linear, x_seq.shape[2:])
    active = torch.stack([step.count_nonzero(0) for step in x_seq]).sum(0).cpu()
    parameters = sum(parameter.numel() for parameter in layer.parameters())
    operations = int((active * synapses).sum()) / samples
    return parameters, int(synapses.sum()), analog, passes, operations


def _membrane(neuron: Neuron, normalized: Tensor) -> list[float] | None:
    """The membranes' histogram, taken step by step as the plain loop charges them."""
    if not isinstance(neuron, SpikingNeuron):
        return None
    steps: list[list[float]] = []
    charge = neuron.charge

    def charged(x: Tensor, v: Tensor) -> Tensor:
        v = charge(x, v)
        steps.append(_shares(v, neuron))
        return v

    neuron.charge = charged  # type: ignore[method-assign]  # of our copy
    neuron.reference(normalized)
    return torch.tensor(steps, dtype=torch.float64).mean(0).tolist() if steps else None


def _shares(potentials: Tensor, neuron: Neuron) -> list[float]:
    """Histogram in units of the neuron's threshold; shares of all entries."""
    # In place and in bytes: the potentials are the largest tensors of a probe.
    bins = (potentials / neuron.v_threshold).flatten().mul_(BINS / (2 * LIMIT)).floor_()
    bins = bins.add_(BINS // 2).nan_to_num_(nan=BINS).clamp_(0, BINS - 1).to(torch.uint8)
    counts = torch.bincount(bins, minlength=BINS)
    shares: list[float] = (counts.double() / len(bins)).tolist()
    return shares
