"""Losses of a small batch and their gradients with respect to the values, compiled."""

import numpy as np
import numpy.typing as npt

from sdqn_lab.engines.kernels import Array
from sdqn_lab.spiking.kernels.jit import bare_jit

Actions = npt.NDArray[np.int64]


@bare_jit
def value_gradient(
    q: Array,
    actions: Actions,
    targets: Array,
    huber: bool,
    scale: float,
    of_q: Array,
    out: Array,
) -> None:
    """The loss of `agents.losses` between targets and the values of the actions taken.

    Args:
        q: (B, A).
        actions: (B,).
        targets: (B,).
        huber: else mean of squares.
        scale: factor of the loss.
        of_q: (B, A), receives the gradient of the loss.
        out: (2,), receives the loss and the mean of the values.
    """
    batch, choices = q.shape
    loss, mean, share = 0.0, 0.0, q.dtype.type(scale / batch)
    for b in range(batch):
        for a in range(choices):
            of_q[b, a] = 0
        error = targets[b] - q[b, actions[b]]
        mean += q[b, actions[b]]
        if not huber:
            loss += error * error
            of_q[b, actions[b]] = -(error + error) * share
        elif abs(error) > 1:
            loss += abs(error) - 0.5
            of_q[b, actions[b]] = -np.sign(error) * share
        else:
            loss += 0.5 * error * error
            of_q[b, actions[b]] = -error * share
    out[0] = loss * scale / batch
    out[1] = mean / batch


@bare_jit
def bootstrap(
    returns: Array, discounts: Array, next_q: Array, selector_q: Array, out: Array
) -> None:
    """returns + discounts * next_q at the argmax of selector_q; (B,), (B,), (B, A), (B, A) to (B,).

    Of equal values the first action is taken; a value that is not a number counts as the largest.
    """
    for b in range(len(out)):
        best = 0
        for a in range(1, next_q.shape[1]):
            value, largest = selector_q[b, a], selector_q[b, best]
            if value > largest or (np.isnan(value) and not np.isnan(largest)):
                best = a
        out[b] = returns[b] + discounts[b] * next_q[b, best]


@bare_jit
def quantile_gradient(
    quantiles: Array,
    actions: Actions,
    targets: Array,
    kappa: float,
    of_quantiles: Array,
    out: Array,
) -> None:
    """The mean over the batch of `agents.losses.quantile_huber`, at tau_i = (i + 1/2) / N.

    Args:
        quantiles: (B, A, N).
        actions: (B,).
        targets: (B, M).
        kappa: corner of the Huber loss; 0: absolute errors.
        of_quantiles: (B, A, N), receives the gradient of the loss.
        out: (2,), receives the loss and the mean of the quantiles of the actions taken.
    """
    batch, choices, count = quantiles.shape
    real, samples = quantiles.dtype.type, targets.shape[1]
    zero, one, corner = real(0), real(1), real(kappa)
    inside = real(0.5) if kappa > 0 else zero
    share = real(1 / (batch * samples))
    loss, mean = np.float64(0), np.float64(0)
    for b in range(batch):
        for a in range(choices):
            for i in range(count):
                of_quantiles[b, a, i] = 0
        current, of_current = quantiles[b, actions[b]], of_quantiles[b, actions[b]]
        for i in range(count):
            value, tau = current[i], real((i + 0.5) / count)
            mean += value
            cost, slope = zero, zero
            # The slope of the Huber loss is the clipped error; of the absolute value, its sign. All
            # comparisons are selects, for vectors, and let through what is no number.
            for j in range(samples):
                error = targets[b, j] - value
                weight = one - tau if error < 0 else tau
                if kappa > 0:
                    clipped = corner if error > corner else error
                    clipped = -corner if error < -corner else clipped
                else:
                    clipped = one if error > 0 else error
                    clipped = -one if error < 0 else clipped
                cost += weight * clipped * (error - inside * clipped)
                slope += weight * clipped
            loss += cost
            of_current[i] = -slope * share
    out[0] = loss / (batch * samples)
    out[1] = mean / (batch * count)


@bare_jit
def quantile_bootstrap(
    returns: Array, discounts: Array, following: Array, selector: Array, out: Array
) -> None:
    """returns + discounts * quantiles of the action whose mean in the selector is the largest.

    Of equal means the first is taken; one that is not a number counts as the largest.

    Args:
        returns: (B,).
        discounts: (B,).
        following: (B, A, N) quantiles.
        selector: (B, A, N).
        out: (B, N).
    """
    for b in range(len(out)):
        best, largest = 0, selector.dtype.type(0)
        for a in range(selector.shape[1]):
            total = selector.dtype.type(0)
            for i in range(selector.shape[2]):
                total += selector[b, a, i]
            if a == 0 or total > largest or (np.isnan(total) and not np.isnan(largest)):
                best, largest = a, total
        for i in range(out.shape[1]):
            out[b, i] = returns[b] + discounts[b] * following[b, best, i]
