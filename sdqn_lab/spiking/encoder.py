"""Encoders: one observation (B, ...) to the input of T simulation steps."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn

from sdqn_lab.checks.ranges import Positive, check_arguments
from sdqn_lab.checks.refused import Refused

POPULATION_THRESHOLD = 0.999


class Encoder(nn.Module, ABC):
    """What a network needs to know about its input.

    Attributes:
        constant: whether every step sees the same input; the sequence then has a single entry. If
            not, the input must lie in [0, 1], unless the encoder says otherwise.
        unbounded: whether an encoder that is not constant takes any input.
        draws: whether two calls for one observation differ, because it draws.
        frames: how many stacked frames an observation must have; None: that does not matter.
    """

    constant: ClassVar[bool]
    unbounded: ClassVar[bool] = False
    draws: bool = False
    frames: int | None = None

    def make_weights(self, observation_shape: tuple[int, ...]) -> None:
        """Make what is learned, if anything is; called once, when a network is built."""

    def shape(self, observation_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Of one sample at one step, from that of an observation.

        Raises:
            Refused: the encoder cannot take such observations.
        """
        return observation_shape

    @abstractmethod
    def forward(
        self, x: Tensor, time_window: int, generator: torch.Generator | None = None
    ) -> Tensor:
        """Observations (B, ...) to a sequence (T, B, ...), or (1, B, ...) if constant."""


class Direct(Encoder):
    """The observation as a constant current: x_t = x at every step.

    Source: Sun, Zeng, Li 2022; Rueckauer et al. 2017.
    """

    constant = True

    def forward(
        self, x: Tensor, time_window: int, generator: torch.Generator | None = None
    ) -> Tensor:
        """Observations (B, ...) to (1, B, ...): one entry that stands for all time_window steps."""
        return x.unsqueeze(0)


class Poisson(Encoder):
    """Rate coding: at every step an independent spike with probability x.

    The input must lie in [0, 1]; this is not checked here (it would wait for the GPU at each call).
    A value below 0 never spikes, one above 1 always does.
    """

    constant, draws = False, True

    def forward(
        self, x: Tensor, time_window: int, generator: torch.Generator | None = None
    ) -> Tensor:
        """Probabilities (B, ...) to spikes (time_window, B, ...).

        The draws come from `generator`, which lives on x's device; None is torch's global one.
        """
        shape = (time_window, *x.shape)
        draws = torch.rand(shape, generator=generator, device=x.device, dtype=x.dtype)
        return (draws < x).to(x.dtype)


class Latency(Encoder):
    """Time coding: one spike per input, the sooner the larger the input::

        t(x) = round((T - 1) (1 - x)),  s_t = 1 if t = t(x) and x >= threshold, else 0

    So 1 fires at step 0, the smallest inputs at step T - 1, and what is below the threshold never.
    Halves are rounded to the even step. Each input is coded on its own, whatever the rest of the
    sample or batch is. The input must lie in [0, 1], which is not checked here; above 1 it counts
    as 1. For inputs of 0 and 1 alone all spikes come at step 0.

    Args:
        threshold: what stays silent is below it, in (0, 1].

    Raises:
        Refused: the threshold is outside its range.

    Source: the linear latency code of snnTorch (Eshraghian et al. 2023), normalized and clipped.
    """

    constant = False

    def __init__(self, *, threshold: Annotated[float, Gt(0), Le(1)] = 0.01) -> None:
        check_arguments(Latency.__init__, locals())
        super().__init__()
        self.threshold = threshold

    def forward(
        self, x: Tensor, time_window: int, generator: torch.Generator | None = None
    ) -> Tensor:
        """Intensities (B, ...) to spikes (time_window, B, ...), at most one per input."""
        times = ((time_window - 1) * (1 - x.clamp(max=1))).round()
        # A time that no step has: an input that is no number stays silent too.
        times = times.where(x >= self.threshold, -1)
        steps = torch.arange(time_window, device=x.device, dtype=x.dtype)
        return (times == steps.view(-1, *[1] * x.dim())).to(x.dtype)


class Delta(Encoder):
    """Events between the frames of a stack, as an event camera sees them, at every step::

        d_k   = frame_(k+1) - frame_k,   k = 0, ..., frames - 2, oldest first
        on_k  = 1[d_k >= threshold],  off_k = 1[d_k <= -threshold]

    The planes on_0, ..., on_(frames - 2), off_0, ..., off_(frames - 2) take the place of the
    frames, and are the same at all T steps: a decision needs all of them, also with T = 1. What
    does not move is not seen. Frames from before an episode are zeros, so its first decisions see
    its whole first picture appear.

    Args:
        frames: how many an observation (frames * c, ...) stacks along its first axis, >= 2.
        threshold: smallest change that is an event, > 0, in units of the scaled observation.

    Raises:
        Refused: an argument is outside its range.

    Source: delta modulation of snnTorch (Eshraghian et al. 2023), whose time axis is here that of
    the stack; ON and OFF planes are those of event cameras (Lichtsteiner, Posch, Delbruck 2008).
    """

    constant = True
    frames: int

    def __init__(self, *, frames: Annotated[int, Ge(2)] = 4, threshold: Positive = 0.1) -> None:
        check_arguments(Delta.__init__, locals())
        super().__init__()
        self.frames, self.threshold = frames, threshold

    def shape(self, observation_shape: tuple[int, ...]) -> tuple[int, ...]:
        """(2 (frames - 1) c, ...) from (frames * c, ...); see `Encoder`."""
        channels, *rest = observation_shape
        if channels % self.frames:
            rule = f"must divide the {channels} channels of an observation"
            raise Refused("frames", self.frames, rule)
        return (2 * (self.frames - 1) * channels // self.frames, *rest)

    def forward(
        self, x: Tensor, time_window: int, generator: torch.Generator | None = None
    ) -> Tensor:
        """Stacks (B, frames * c, ...) to events (1, B, 2 (frames - 1) c, ...), 0 or 1."""
        frames = x.view(len(x), self.frames, -1, *x.shape[2:])
        change = (frames[:, 1:] - frames[:, :-1]).flatten(1, 2)
        events = torch.cat([change >= self.threshold, change <= -self.threshold], dim=1)
        return events.to(x.dtype).unsqueeze(0)


class Population(Encoder):
    """A population of units for each number of a vector, with Gaussian receptive fields::

        a_ij = exp(-(x_i - mu_j)^2 / (2 sigma^2))
        v   <- v + a,  s = 1[v > 0.999],  v <- v - 0.999 s

    The centres mu_1, ..., mu_units lie evenly from `low` to `high`. So a unit fires the more often
    the nearer its centre is, and what lies outside is silence. Units of the first number come
    first. The input may have any size.

    Where `stochastic`, a unit has no membrane and fires at each step with probability a. Where
    `learned`, mu and sigma of every unit are parameters that begin there; the gradient takes
    ds/dv, or ds/da, for 1.

    Args:
        units: for each number, >= 2.
        low: centre of the first unit, in units of the scaled observation: a number, or one for each
            number of the observation.
        high: centre of the last unit, > low, likewise.
        width: sigma, > 0, in distances between neighbouring centres.
        learned: whether mu and sigma are learned.
        stochastic: whether spikes are drawn.

    Attributes:
        centres: mu (F, units), where they are learned.
        widths: sigma (F, units), likewise.

    Raises:
        Refused: an argument is outside its range, or does not fit the observation.

    Source: Tang et al. 2020 (PopSAN).
    """

    constant = False
    unbounded = True
    centres: nn.Parameter | None
    widths: nn.Parameter | None

    def __init__(
        self,
        *,
        units: Annotated[int, Ge(2)] = 10,
        low: float | Sequence[float] = -3.0,
        high: float | Sequence[float] = 3.0,
        width: Positive = 0.58,
        learned: bool = False,
        stochastic: bool = False,
    ) -> None:
        check_arguments(Population.__init__, locals())
        super().__init__()
        self.units, self.width = units, width
        self.learned, self.stochastic, self.draws = learned, stochastic, stochastic
        for name in ("centres", "widths"):  # how many there are is known to `make_weights`
            self.register_parameter(name, None)
        if not (np.subtract(high, low) > 0).all():
            raise Refused("low", low, f"must be below high ({high})")
        self.low, self.high = low, high

    def shape(self, observation_shape: tuple[int, ...]) -> tuple[int, ...]:
        """(units * F,) from (F,); see `Encoder`."""
        if len(observation_shape) != 1:
            rule = f"needs a vector (F,), got an observation of shape {observation_shape}"
            raise Refused("encoder", "population", rule, "encoder=direct")
        (numbers,) = observation_shape
        for name, bound in (("low", self.low), ("high", self.high)):
            if not isinstance(bound, int | float) and len(bound) != numbers:
                rule = f"must be one number, or one for each of the {numbers} of an observation"
                raise Refused(f"encoder.{name}", bound, rule)
        return (self.units * numbers,)

    def make_weights(self, observation_shape: tuple[int, ...]) -> None:
        """See `Encoder`."""
        if self.learned:
            fields = self._receptive_fields(torch.empty(observation_shape[0]))
            self.centres, self.widths = map(nn.Parameter, fields)

    def forward(
        self, x: Tensor, time_window: int, generator: torch.Generator | None = None
    ) -> Tensor:
        """Observations (B, F) to spikes (time_window, B, units * F).

        The draws come from `generator`, which lives on x's device; None is torch's global one.
        """
        if self.centres is not None and self.widths is not None:
            activity = population_activity(x, self.centres, self.widths)
        else:
            activity = population_activity(x, *self._receptive_fields(x.new_empty(x.shape[1])))
        if not self.stochastic:
            return population_spikes(activity, time_window)
        shape = (time_window, *activity.shape)
        draws = torch.rand(shape, generator=generator, device=x.device, dtype=x.dtype)
        spikes: Tensor = _Step.apply(activity - draws)  # type: ignore[no-untyped-call]
        return spikes

    def _receptive_fields(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Centres and widths (F, units) for observations `like` (F,)."""
        low, high = (
            torch.tensor(b, device=like.device, dtype=like.dtype) for b in (self.low, self.high)
        )
        gap = ((high - low) / (self.units - 1)).expand(len(like))[:, None]
        places = torch.arange(self.units, device=like.device, dtype=like.dtype)
        return low.expand(len(like))[:, None] + gap * places, (self.width * gap).repeat(
            1, self.units
        )


class _Step(torch.autograd.Function):
    """1[x > 0], the gradient of which passes as it is."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        return grad_outputs[0]


def population_activity(x: Tensor, centres: Tensor, widths: Tensor) -> Tensor:
    """Activity of units with Gaussian receptive fields, in (0, 1]; see `Population`.

    Args:
        x: (B, F).
        centres: (F, units).
        widths: sigma (F, units).

    Returns:
        (B, F * units).
    """
    return (-(x[:, :, None] - centres).square() / (2 * widths.square())).exp().flatten(1)


def population_spikes(activity: Tensor, time_window: int) -> Tensor:
    """Spikes (T, ...) of units that charge their membranes with `activity` (...); see `Population`.

    The gradient takes ds/dv for 1, in the reset too.
    """
    v, spikes = torch.zeros_like(activity), list[Tensor]()
    for _ in range(time_window):
        v = v + activity
        # Just below 1, so that a unit whose centre is hit fires at every step.
        spikes.append(_Step.apply(v - POPULATION_THRESHOLD))  # type: ignore[no-untyped-call]
        v = v - POPULATION_THRESHOLD * spikes[-1]
    return torch.stack(spikes)
