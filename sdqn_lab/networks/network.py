"""The whole network: observations to the outputs of its heads."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from sdqn_lab.checks.refused import Refused
from sdqn_lab.spiking.encoder import Encoder
from sdqn_lab.spiking.neuron import Bernoulli, Neuron, SpikingNeuron
from sdqn_lab.spiking.norm import PopNorm
from sdqn_lab.spiking.readout import Readout

if TYPE_CHECKING:
    from sdqn_lab.networks.blocks import Torso


class SpikingNetwork(nn.Module):
    """y = readout(torso(encoder(observation / observation_scale))) for each of its heads.

    A pure function: no membrane survives a call. (Batch normalization in training mode moves its
    running statistics, and what draws, such as a Poisson encoder or a Bernoulli neuron, draws from
    the generator that it is given.) With
    neurons that do not spike every call runs a single step, whatever time_window says.

    Args:
        torso: the blocks, with activity (T, B, num_features).
        encoder: observation to sequence.
        heads: readouts by name, each from sequence to outputs (B, K).
        own_torsos: by head, for heads that read a torso of their own; the others share `torso`.
        gaussian: the head whose outputs (B, D) are means of normal distributions, and D. The
            logarithms of their standard deviations are parameters too, which no observation changes
            and which begin at 0; the head's outputs are then both, (B, 2D). None: no head's are.
        time_window: T, simulation steps per decision, >= 1.
        observation_scale: the observation is divided by it, > 0 (255 for bytes).

    Raises:
        Refused: a number is outside its range, or a readout needs time and the neurons have none.
    """

    readout: Readout
    """The head of a network that has one; with several each is called after itself."""

    def __init__(
        self,
        torso: "Torso",
        encoder: Encoder,
        heads: Mapping[str, Readout],
        *,
        own_torsos: "Mapping[str, Torso] | None" = None,
        gaussian: tuple[str, int] | None = None,
        time_window: int,
        observation_scale: float,
    ) -> None:
        super().__init__()
        if not observation_scale > 0:
            raise Refused("observation_scale", observation_scale, "must be > 0")
        self.torso = torso
        self.own_torsos = nn.ModuleDict(own_torsos)
        self.encoder = encoder
        # A single head is called `readout`, whatever it stands for: so weights keep their names.
        self._names = {name: "readout" if len(heads) == 1 else f"{name}_readout" for name in heads}
        for name, readout in heads.items():
            self.add_module(self._names[name], readout)
        self.gaussian_head = gaussian[0] if gaussian else None
        self.log_std = nn.Parameter(torch.zeros(gaussian[1])) if gaussian else None
        self.time_window = _checked(time_window)
        self.observation_scale = observation_scale
        self._drawing = [module for module in self.modules() if isinstance(module, Bernoulli)]
        neurons = [module for module in torso.modules() if isinstance(module, Neuron)]
        self.temporal = any(neuron.temporal for neuron in neurons)
        for readout in heads.values():
            if readout.temporal and not self.temporal:
                rule = "needs time, and the neuron has none"
                raise Refused("readout", type(readout).__name__, rule, "readout=mean_spikes")

    @property
    def heads(self) -> dict[str, Readout]:
        """The readouts by the names that the algorithm gave them."""
        return {name: cast(Readout, self._modules[own]) for name, own in self._names.items()}

    def torsos(self) -> dict[str, nn.Module]:
        """The torso that heads share, then those of single heads, by what their layers begin with.

        That is nothing, or the head's name and a dot.
        """
        return {"": self.torso} | {f"{head}.": own for head, own in self.own_torsos.items()}

    def layers(self) -> Iterator[tuple[str, nn.Module]]:
        """The torsos' layers by name, then the heads: `head` alone, or several by their names.

        `log_std` is in none of them: it says nothing of what reaches a layer.
        """
        for prefix, torso in self.torsos().items():
            for name, layer in torso.named_children():
                yield prefix + name, layer
        heads = self.heads
        for name, readout in heads.items():
            yield ("head" if len(heads) == 1 else name), readout

    def gradient_norms(self) -> dict[str, Tensor]:
        """L2 norm of the gradient of each layer (linear map, norm and neuron together), 0-d.

        Layers are named as `layers` names them; those without a gradient are left out.
        """
        grads = {
            name: [p.grad for p in layer.parameters() if p.grad is not None]
            for name, layer in self.layers()
        }
        return {name: get_total_norm(of_layer) for name, of_layer in grads.items() if of_layer}

    def notes(self) -> Iterator[str]:
        """What a person should know of this combination of parts before training."""
        absorbed = [
            prefix + name
            for prefix, torso in self.torsos().items()
            for name, block in torso.named_modules()
            if isinstance(getattr(block, "norm", None), PopNorm)
            and isinstance(neuron := block.neuron, SpikingNeuron)
            and neuron.learn_threshold
            and neuron.v_reset == 0
        ]
        if absorbed:
            yield (
                f"note: the learned thresholds of {', '.join(absorbed)} are no new freedom: "
                "a PopNorm's weight and bias, both scaled, give the same spikes; only the "
                "surrogate's width changes"
            )

    def forward(
        self,
        observations: Tensor,
        *,
        time_window: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor | dict[str, Tensor]:
        """Observations (B, C, H, W) or (B, F), bytes or floats, to outputs (B, K).

        With one head these are its outputs; with several, a dictionary of them by name.

        Args:
            observations: a batch as the environment gives it, not scaled.
            time_window: T for this call alone; None means the network's own.
            generator: where a random encoder and random neurons draw from, on the observations'
                device; None: torch's global one.

        Raises:
            Refused: time_window is below 1.
        """
        steps = self.steps(time_window)
        heads = list(self.heads.items())
        # Here and not sooner: on the way to a GPU bytes are a quarter of what floats would be.
        x = observations.to(heads[0][1].linear.weight.dtype) / self.observation_scale
        with self.drawing(generator):
            x_seq = self.encoder(x, steps, generator)
            shared = self.torso(x_seq, steps)
            activity = {name: torso(x_seq, steps) for name, torso in self.own_torsos.items()}
            outputs = {name: readout(activity.get(name, shared)) for name, readout in heads}
        if self.log_std is not None and (head := self.gaussian_head) is not None:
            mean = outputs[head]
            outputs[head] = torch.cat([mean, self.log_std.expand_as(mean)], dim=1)
        return outputs if len(heads) > 1 else outputs[heads[0][0]]

    def features(self, observations: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """What the heads read, activity (T, B, num_features) of the last layer; see `forward`."""
        x = observations.to(next(self.parameters()).dtype) / self.observation_scale
        steps = self.steps(None)
        with self.drawing(generator):
            return cast(Tensor, self.torso(self.encoder(x, steps, generator), steps))

    @contextmanager
    def drawing(self, generator: torch.Generator | None) -> Iterator[None]:
        """Neurons that draw take their spikes from `generator` while the context is open."""
        for neuron in self._drawing:
            neuron.generator = generator
        try:
            yield
        finally:
            for neuron in self._drawing:
                neuron.generator = None

    def steps(self, time_window: int | None) -> int:
        """T of a call: as given, else the network's own; 1 where neurons have no time."""
        if not self.temporal:
            return 1
        return self.time_window if time_window is None else _checked(time_window)


def _checked(time_window: int) -> int:
    if time_window < 1:
        raise Refused("time_window", time_window, "must be >= 1")
    return time_window
