"""Adam, AdamW and RAdam over a compiled network's flat parameters."""

import math

import numpy as np
import torch

from sdqn_lab.engines.kernels import Array, Table
from sdqn_lab.engines.network import CompiledNetwork
from sdqn_lab.spiking.kernels.jit import bare_jit

TINY = 1e-30
"""Moments below are set to 0: a parameter would not move, and what they are multiplied with makes
numbers that are not normal, which take a hundred times as long. So would a moment that decays."""
CLIP_EPS = 1e-6
"""As in torch's clipping of gradients."""


def optimizer_obstacle(optimizer: torch.optim.Optimizer) -> str | None:
    """What `CompiledOptimizer` lacks for this one, in a few words; None if nothing."""
    if type(optimizer) not in (torch.optim.Adam, torch.optim.AdamW, torch.optim.RAdam):
        return "an optimizer other than Adam, AdamW and RAdam"
    if len(optimizer.param_groups) > 1:
        return "several groups of parameters"
    (group,) = optimizer.param_groups
    return "amsgrad or maximize" if group.get("amsgrad") or group["maximize"] else None


class CompiledOptimizer:
    """Takes the steps of an optimizer of torch, whose settings it reads and whose state it holds.

    With m and v the moments of the gradient and c1 and c2 their corrections of bias::

        Adam, AdamW    theta <- theta - lr / c1 m / (sqrt(v / c2) + eps)
        RAdam          theta <- theta - lr / c1 m r / (sqrt(v / c2) + eps / sqrt(c2)), with the
                       rectification r; before there is one, theta <- theta - lr / c1 m

    Args:
        network: whose gradient is used, and set to zero.
        optimizer: torch's Adam, AdamW or RAdam, over all of its parameters in one group.

    Attributes:
        network: the same.
        norms: L2 norm of the last gradient of each layer, after clipping.

    Source: Kingma and Ba 2015; Loshchilov and Hutter 2019; Liu et al. 2020 (RAdam).
    """

    def __init__(self, network: CompiledNetwork, optimizer: torch.optim.Optimizer) -> None:
        self.network, self._optimizer = network, optimizer
        first = torch.zeros(network.parameters.size, dtype=network.dtype)
        self._moments = first, torch.zeros_like(first)
        self._squares = np.zeros(len(network.layers), network.parameters.dtype)
        self._steps = 0
        self.norms: dict[str, float] = {}

    def step(self, max_grad_norm: float | None = None) -> float:
        """Make one step; returns the L2 norm of the whole gradient, before it is clipped."""
        network, (group,) = self.network, self._optimizer.param_groups
        first, second = (moment.numpy() for moment in self._moments)
        clip = 1.0
        if max_grad_norm is not None:
            square_sums(network.gradient, network.bounds, self._squares)
            clip = min(1.0, max_grad_norm / (math.sqrt(self._squares.sum()) + CLIP_EPS))
        self._steps += 1
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
            network.parameters, network.gradient, moments, numbers, network.bounds, self._squares
        )
        norms = clip * np.sqrt(self._squares)
        self.norms = dict(zip(network.layers, norms.tolist(), strict=True))
        return math.sqrt(self._squares.sum())

    def store(self) -> None:
        """Show torch's optimizer its state, which shares memory with this one's."""
        views = [self.network.views(moment) for moment in self._moments]
        for parameter, first, second in zip(self.network.own, *views, strict=True):
            step = torch.tensor(float(self._steps))
            state = {"step": step, "exp_avg": first, "exp_avg_sq": second}
            self._optimizer.state[parameter] = state

    def load(self) -> None:
        """Take over the state that torch's optimizer has, or none if it has none yet."""
        self._steps = 0
        views = [self.network.views(moment) for moment in self._moments]
        for parameter, first, second in zip(self.network.own, *views, strict=True):
            state = self._optimizer.state.get(parameter)
            if not state:
                first.zero_()
                second.zero_()
            else:
                self._steps = int(state["step"])
                first.copy_(state["exp_avg"])
                second.copy_(state["exp_avg_sq"])


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
