"""Rules of synaptic plasticity: what a connection remembers of the spikes on its two sides.

A rule turns the spikes of one decision into eligibilities; a reward that comes later turns these
into changes. A new rule is a class here with an entry in `RULES`; its
arguments become keys of `algo` by standing in the signature of `Plasticity`.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge
from torch import Tensor

from sdqn_lab.checks.ranges import NonNegative, Positive, check_arguments
from sdqn_lab.spiking.output_neurons import OutputSpikes


class Rule(ABC):
    """Eligibilities of the synapses onto neurons with escape noise.

    Spikes come as (T, N, F) before and (T, N, K) behind the synapses, `probability` (T, N, K) is
    that of a spike behind, given those that came before it.

    Args:
        neurons: the output neurons.
        settings: what the rule itself needs; each has a default.

    Attributes:
        learning_rate: what suits the size of its eligibilities, where nothing else is asked for.
        learns_thresholds: whether the rule says how thresholds change.
    """

    learning_rate: ClassVar[float]
    learns_thresholds: ClassVar[bool]

    @abstractmethod
    def __init__(self, neurons: OutputSpikes, **settings: Any) -> None: ...

    @abstractmethod
    def steps(self, pre: Tensor, post: Tensor, probability: Tensor) -> Iterator[Tensor]:
        """The eligibility (N, K, F) after each of the T simulation steps; it starts from zero."""

    def weights(self, pre: Tensor, post: Tensor, probability: Tensor) -> Tensor:
        """Of a decision (N, K, F), for the map's weights: the one after its last step."""
        *_, last = self.steps(pre, post, probability)
        return last

    def thresholds(self, post: Tensor, probability: Tensor) -> Tensor:
        """Of a decision (N, K), for the neurons' thresholds; zero unless `learns_thresholds`."""
        return torch.zeros_like(post[0])


class ScoreFunction(Rule):
    """The gradient of the log-likelihood of the output spikes, with hard resets to 0::

        e <- (1 - 1 / tau) e + pre / tau        dv / dw
        z <- z + (post - p) e / delta_u
        e <- e (1 - post)
        z_theta <- z_theta - (post - p) / delta_u

    Times reward it is an unbiased estimate of the gradient of the expected reward: every neuron is
    an agent of Williams 1992.

    Args:
        neurons: whose tau and delta_u count.

    Source: Williams 1992; Florian 2007.
    """

    learning_rate, learns_thresholds = 0.1, True

    def __init__(self, neurons: OutputSpikes) -> None:
        self.tau, self.delta_u = neurons.neuron.tau, neurons.neuron.delta_u

    def steps(self, pre: Tensor, post: Tensor, probability: Tensor) -> Iterator[Tensor]:
        """See `Rule`."""
        surprise = (post - probability) / self.delta_u
        slope = torch.zeros(*post.shape[1:], pre.shape[2], dtype=pre.dtype, device=pre.device)
        z = torch.zeros_like(slope)
        for before, behind, excess in zip(pre, post, surprise, strict=True):
            slope = slope + (before[:, None] - slope) / self.tau
            z = z + excess[:, :, None] * slope
            yield z
            # A reset takes the membrane away, and with it what the weights did to it.
            slope = slope * (1 - behind[:, :, None])

    def thresholds(self, post: Tensor, probability: Tensor) -> Tensor:
        """See `Rule`."""
        # Without a leak: a threshold acts at its own step alone.
        return -(post - probability).sum(0) / self.delta_u


class RMax(Rule):
    """The rule of Vasilaki et al., between the policy gradient (c = 0) and Hebb (large c)::

        x <- exp(-1 / tau_plus) x + pre
        z <- (1 - 1 / tau_eligibility) z + (post - p / (1 + c p)) x
        z_theta <- (1 - 1 / tau_eligibility) z_theta - (post - p / (1 + c p))

    Args:
        neurons: not looked at.
        tau_plus: time constant of the trace x, in steps.
        tau_eligibility: time constant of z, in steps.
        hebb: c.

    Raises:
        Refused: an argument outside its range.

    Source: Vasilaki et al. 2009, as BindsNET 0.3.4 has it; the thresholds, as synapses from an
    input that is always -1, are ours.
    """

    learning_rate, learns_thresholds = 0.05, True

    def __init__(
        self,
        neurons: OutputSpikes,
        *,
        tau_plus: Positive = 20.0,
        tau_eligibility: Annotated[float, Ge(1)] = 25.0,
        hebb: NonNegative = 0.0,
    ) -> None:
        check_arguments(RMax.__init__, locals())
        self.decay, self.left = math.exp(-1 / tau_plus), 1 - 1 / tau_eligibility
        self.hebb = hebb

    def steps(self, pre: Tensor, post: Tensor, probability: Tensor) -> Iterator[Tensor]:
        """See `Rule`."""
        x, z = torch.zeros_like(pre[0]), torch.zeros_like(pre[0, :, None] * post[0, :, :, None])
        for before, excess in zip(pre, self._excess(post, probability), strict=True):
            x = self.decay * x + before
            z = self.left * z + excess[:, :, None] * x[:, None]
            yield z

    def thresholds(self, post: Tensor, probability: Tensor) -> Tensor:
        """See `Rule`."""
        z = torch.zeros_like(post[0])
        for excess in self._excess(post, probability):
            z = self.left * z - excess
        return z

    def _excess(self, post: Tensor, probability: Tensor) -> Tensor:
        return post - probability / (1 + self.hebb * probability)


class MSTDP(Rule):
    """Spike-timing-dependent plasticity that reward modulates at once::

        P+ <- exp(-1 / tau_plus) P+ + a_plus pre
        P- <- exp(-1 / tau_minus) P- + a_minus post
        zeta = P+ post + pre P-

    The reward of a decision counts at each of its steps, so its eligibility is the sum of zeta. In
    a step in which both sides fire, the presynaptic spike is a cause of the other: here an input
    acts within the step. With balanced windows, a_minus = -a_plus, such a pair counts nothing
    (`same_step_depression` true), and the rule learns the opposite of what is rewarded
    (docs/PLASTICITY.md); where it is false, P- is taken before the step's own spikes.

    Args:
        neurons: not looked at.
        tau_plus: time constant of P+, in steps.
        tau_minus: time constant of P-, in steps.
        a_plus: what a presynaptic spike adds to P+.
        a_minus: what a postsynaptic spike adds to P-, negative for depression.
        same_step_depression: whether a pair within one step is depressed too.

    Raises:
        Refused: an argument outside its range.

    Source: Florian 2007, as BindsNET 0.3.4 and SpikingJelly 2.0.0 have it.
    """

    learning_rate, learns_thresholds = 0.005, False

    def __init__(
        self,
        neurons: OutputSpikes,
        *,
        tau_plus: Positive = 20.0,
        tau_minus: Positive = 20.0,
        a_plus: float = 1.0,
        a_minus: float = -0.5,
        same_step_depression: bool = False,
    ) -> None:
        check_arguments(MSTDP.__init__, locals())
        self.decays = math.exp(-1 / tau_plus), math.exp(-1 / tau_minus)
        self.a_plus, self.a_minus = a_plus, a_minus
        self.same_step_depression = same_step_depression

    def steps(self, pre: Tensor, post: Tensor, probability: Tensor) -> Iterator[Tensor]:
        """See `Rule`; here zeta alone, which remembers nothing."""
        plus, minus = torch.zeros_like(pre[0]), torch.zeros_like(post[0])
        for before, behind in zip(pre, post, strict=True):
            plus = self.decays[0] * plus + self.a_plus * before
            # Before the step's own spikes, which follow the inputs that caused them.
            faded = self.decays[1] * minus
            minus = faded + self.a_minus * behind
            depression = minus if self.same_step_depression else faded
            yield plus[:, None] * behind[:, :, None] + before[:, None] * depression[:, :, None]

    def weights(self, pre: Tensor, post: Tensor, probability: Tensor) -> Tensor:
        """The sum over the decision's steps."""
        return torch.stack(list(self.steps(pre, post, probability))).sum(0)


class MSTDPET(MSTDP):
    """`MSTDP` with an eligibility trace, for rewards that come after the spikes::

        z <- exp(-1 / tau_eligibility) z + zeta / tau_eligibility

    Args:
        neurons: see `MSTDP`, as all other arguments.
        tau_eligibility: time constant of z, in steps.

    Raises:
        Refused: an argument outside its range.

    Source: Florian 2007, as BindsNET 0.3.4 and SpikingJelly 2.0.0 have it.
    """

    learning_rate = 0.2

    def __init__(
        self,
        neurons: OutputSpikes,
        *,
        tau_plus: Positive = 20.0,
        tau_minus: Positive = 20.0,
        a_plus: float = 1.0,
        a_minus: float = -0.5,
        same_step_depression: bool = False,
        tau_eligibility: Positive = 25.0,
    ) -> None:
        check_arguments(MSTDPET.__init__, locals())
        super().__init__(
            neurons,
            tau_plus=tau_plus,
            tau_minus=tau_minus,
            a_plus=a_plus,
            a_minus=a_minus,
            same_step_depression=same_step_depression,
        )
        self.tau_eligibility = tau_eligibility

    def steps(self, pre: Tensor, post: Tensor, probability: Tensor) -> Iterator[Tensor]:
        """See `Rule`."""
        left, z = math.exp(-1 / self.tau_eligibility), torch.zeros(())
        for zeta in super().steps(pre, post, probability):
            z = left * z + zeta / self.tau_eligibility
            yield z

    # The trace has summed already.
    weights = Rule.weights


RULES: Mapping[str, type[Rule]] = {
    "score_function": ScoreFunction,
    "r_max": RMax,
    "mstdp": MSTDP,
    "mstdpet": MSTDPET,
}
"""By what `algo.rule` names them. The arguments of a class, but `neurons`, are keys of `algo`."""
