"""Adam, AdamW, RAdam and RMSprop over a compiled network's flat parameters."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from sdqn_lab.engines.kernels import Array, Table
from sdqn_lab.spiking.kernels.jit import bare_jit

if TYPE_CHECKING:
    from sdqn_lab.engines.network import CompiledNetwork

TINY = 1e-30
"""Moments below are set to 0: a parameter would not move, and what they are multiplied with makes
numbers that are not normal, which take a hundred times as long. So would a moment that decays."""
CLIP_EPS = 1e-6
"""As in torch's clipping of gradients."""
MOMENTS: dict[type[torch.optim.Optimizer], tuple[str, ...]] = {
    torch.optim.Adam: ("exp_avg", "exp_avg_sq"),
    torch.optim.AdamW: ("exp_avg", "exp_avg_sq"),
    torch.optim.RAdam: ("exp_avg", "exp_avg_sq"),
    torch.optim.RMSprop: ("square_avg",),
}
"""What torch calls the moments in an optimizer's state; the last one is that of the squares."""


def optimizer_obstacle(optimizer: torch.optim.Optimizer, network: nn.Module) -> str | None:
    """What `CompiledOptimizer` lacks for these two, in a few words; None if nothing."""
    if type(optimizer) not in MOMENTS:
        return f"an optimizer other than {', '.join(kind.__name__ for kind in MOMENTS)}"
    if len(optimizer.param_groups) > 1:
        return "several groups of parameters"
    (group,) = optimizer.param_groups
    learned = {parameter for parameter in network.parameters() if parameter.requires_grad}
    if len(learned) < len(list(network.parameters())) or learned != set(group["params"]):
        return "parameters that are frozen, or not the optimizer's"
    options = ("amsgrad", "maximize", "momentum", "centered")
    return next((option for option in options if group.get(option)), None)


class CompiledOptimizer:
    """Takes the steps of an optimizer of torch, whose settings it reads and whose state it holds.

    With m and v the moments of the gradient and c1 and c2 their corrections of bias::

        Adam, AdamW    theta <- theta - lr / c1 m / (sqrt(v / c2) + eps)
        RAdam          theta <- theta - lr / c1 m r / (sqrt(v / c2) + eps / sqrt(c2)), with the
                       rectification r; before there is one, theta <- theta - lr / c1 m
        RMSprop        theta <- theta - lr g / (sqrt(v) + eps)

    Args:
        network: whose gradient is used, and set to zero.
        optimizer: of torch, one without an `optimizer_obstacle`, over all of its parameters.

    Attributes:
        network: the same.
        norms: L2 norm of the last gradient of each layer, after clipping.

    Source: Kingma and Ba 2015; Loshchilov and Hutter 2019; Liu et al. 2020 (RAdam); Tieleman and
    Hinton 2012 (RMSprop).
    """

    _moments: tuple[Tensor, Tensor]
    _steps: int

    def __init__(self, network: "CompiledNetwork", optimizer: torch.optim.Optimizer) -> None:
        self.network, self._optimizer = network, optimizer
        # Behind the layers lies what belongs to none, or nothing.
        self._bounds = np.append(network.bounds, len(network.parameters))
        self._squares = np.zeros(len(network.bounds), network.parameters.dtype)
        self.norms: dict[str, float] = {}
        self.load()

    def step(self, max_grad_norm: float | None = None) -> float:
        """Make one step; returns the L2 norm of the whole gradient, before it is clipped."""
        network, (group,) = self.network, self._optimizer.param_groups
        first, second = (moment.numpy() for moment in self._moments)
        clip = 1.0
        if max_grad_norm is not None:
            square_sums(network.gradient, self._bounds, self._squares)
            clip = min(1.0, max_grad_norm / (math.sqrt(self._squares.sum()) + CLIP_EPS))
        self._steps, self._has_stepped = self._steps + 1, True
        if isinstance(self._optimizer, torch.optim.RMSprop):
            (beta1, beta2), corrections = (0.0, group["alpha"]), (1.0, 1.0)
        else:
            beta1, beta2 = group["betas"]
            corrections = 1 - beta1**self._steps, 1 - beta2**self._steps
        rate, scale, eps = group["lr"] / corrections[0], 1 / math.sqrt(corrections[1]), group["eps"]
        if isinstance(self._optimizer, torch.optim.RAdam):
            most = 2 / (1 - beta2) - 1
            length = most - 2 * self._steps * beta2**self._steps / corrections[1]
            if length > 5:
                ratio = (length - 4) * (length - 2) * most / ((most - 4) * (most - 2) * length)
                rate, eps = rate * math.sqrt(ratio), eps * scale
            else:  # the adaptive rate has no variance yet
                scale, eps = 0.0, 1.0
        decay, shrink = group["weight_decay"], 1.0
        # Older releases of torch say it by the class alone.
        if group.get("decoupled_weight_decay", isinstance(self._optimizer, torch.optim.AdamW)):
            decay, shrink = 0.0, 1 - group["lr"] * decay
        numbers = np.array(
            [clip, beta1, beta2, rate, scale, eps, decay, shrink], network.parameters.dtype
        )
        moments = first, second
        adam_step(
            network.parameters, network.gradient, moments, numbers, self._bounds, self._squares
        )
        norms = clip * np.sqrt(self._squares)
        self.norms = dict(zip(network.layers, norms.tolist(), strict=False))
        return math.sqrt(self._squares.sum())

    def store(self) -> None:
        """Show torch's optimizer its state, which shares memory with this one's.

        Without a step since the last `load` torch's is the newer one, and stays.
        """
        if not self._has_stepped:
            return
        for parameter, moments in self._named():
            step = torch.tensor(float(self._steps))
            self._optimizer.state[parameter] = {"step": step, **moments}

    def load(self) -> None:
        """Take over the state that torch's optimizer has, or none if it has none yet."""
        self._steps, self._has_stepped = 0, False
        first = torch.zeros(self.network.parameters.size, dtype=self.network.dtype)
        # Not in place: what is loaded may be what was stored.
        self._moments = first, torch.zeros_like(first)
        for parameter, moments in self._named():
            if state := self._optimizer.state.get(parameter):
                self._steps = int(state["step"])
                for name, moment in moments.items():
                    moment.copy_(state[name])

    def _named(self) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """Each parameter with the moments that torch's optimizer keeps of it."""
        names = MOMENTS[type(self._optimizer)]
        views = [self.network.views(moment) for moment in self._moments[-len(names) :]]
        for parameter, *moments in zip(self.network.own, *views, strict=True):
            yield parameter, dict(zip(names, moments, strict=True))


@bare_jit
def square_sums(gradient: Array, bounds: Table, out: Array) -> None:
    """Sum of squares of each layer's gradient."""
    for layer in range(len(out)):
        part = gradient[bounds[layer] : bounds[layer + 1]]
        total = gradient.dtype.type(0)
        for i in range(len(part)):
            total += part[i] * part[i]
        out[layer] = total


@bare_jit
def adam_step(
    parameters: Array,
    gradient: Array,
    moments: tuple[Array, Array],
    numbers: Array,
    bounds: Table,
    squares: Array,
) -> None:
    """Move moments and parameters, set the gradient to zero; write its square sums by layer."""
    one, zero, tiny = gradient.dtype.type(1), gradient.dtype.type(0), gradient.dtype.type(TINY)
    clip, beta1, beta2, rate = numbers[0], numbers[1], numbers[2], numbers[3]
    scale, eps, decay, shrink = numbers[4], numbers[5], numbers[6], numbers[7]
    for layer in range(len(squares)):
        begin, length = bounds[layer], bounds[layer + 1] - bounds[layer]
        theta, grad = parameters[begin:][:length], gradient[begin:][:length]
        first, second = moments[0][begin:][:length], moments[1][begin:][:length]
        total = zero
        for i in range(length):
            total += grad[i] * grad[i]
            g = grad[i] * clip + decay * theta[i]
            m = beta1 * first[i] + (one - beta1) * g
            v = beta2 * second[i] + (one - beta2) * g * g
            first[i] = m if abs(m) > tiny else zero
            second[i] = v if v > tiny else zero
            theta[i] = shrink * theta[i] - rate * m / (np.sqrt(v) * scale + eps)
            grad[i] = zero
        squares[layer] = total
