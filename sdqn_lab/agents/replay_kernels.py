"""The loop of a draw from replay, compiled."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sdqn_lab.agents.returns import FloatArray, IntArray
from sdqn_lab.spiking.kernels.jit import exact_jit

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


class Drawn(NamedTuple):
    """What is drawn of B transitions, found by `find_windows`.

    Attributes:
        frames: (2, B, S) row * N + environment of each stacked frame in the ring, oldest first;
            -1: before the start of the episode. First come the observations, then those at the
            ends of the windows.
        actions: (B,).
        returns: (B,).
        discounts: (B,).
    """

    frames: IntArray
    actions: IntArray
    returns: Floats
    discounts: Floats

    @classmethod
    def empty(cls, batch_size: int, stack: int) -> "Drawn":
        """Room for B transitions with stacks of S frames."""
        return cls(
            np.empty((2, batch_size, stack), np.int64),
            np.empty(batch_size, np.int64),
            np.empty(batch_size, np.float32),
            np.empty(batch_size, np.float32),
        )


@exact_jit
def find_windows(
    places: IntArray,
    timeline: npt.NDArray[Any],
    oldest_row: int,
    rows_written: int,
    powers: FloatArray,
    drawn: Drawn,
) -> int:
    """Say what is drawn at each place, and mark by -1 the places where nothing can be drawn.

    The rules are those of `Replay.sample`, the sum is that of `n_step_return`.

    Args:
        places: (B,) each (row - oldest_row) * N + environment.
        timeline: (R, N) of `replay.RECORD`, row r of the run at r modulo R.
        oldest_row: absolute number of the oldest row stored.
        rows_written: and of the next one to be written.
        powers: (n + 1,) gamma to the power of 0 to n.
        drawn: filled but for the marked places.

    Returns:
        How many places were marked.
    """
    capacity, num_envs = timeline.shape
    n_step, stack = len(powers) - 1, drawn.frames.shape[2]
    marked = 0
    for i in range(len(places)):
        row, env = oldest_row + places[i] // num_envs, places[i] % num_envs
        first = timeline[row % capacity, env]
        last, total, length = first, powers[0] * first.rewards, 1
        # Rows beyond the newest hold leftovers. They can only make a window longer that has
        # left the stored rows already, so its end is refused all the same.
        following = timeline[(row + 1) % capacity, env]
        while length < n_step and following.valid and not last.terminal:
            last = following
            total += powers[length] * last.rewards
            length += 1
            following = timeline[(row + length) % capacity, env]
        oldest_frame = row - min(np.int64(first.age), stack - 1)
        if not first.valid or row + length >= rows_written or oldest_frame < oldest_row:
            places[i] = -1
            marked += 1
            continue
        drawn.actions[i] = first.actions
        drawn.returns[i] = total
        drawn.discounts[i] = 0.0 if last.terminal else powers[length]
        for side, (newest, age) in enumerate(((row, first.age), (row + length, following.age))):
            for back in range(stack):
                before_start = back > np.int64(age)
                place = -1 if before_start else (newest - back) % capacity * num_envs + env
                drawn.frames[side, i, stack - 1 - back] = place
    return marked
