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
