"""Replay memory that holds each frame once and rebuilds stacks and n-step windows when drawing."""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from annotated_types import Ge, Le
from torch import Tensor

from sdqn_lab.agents.replay_kernels import Drawn, find_windows
from sdqn_lab.agents.returns import BoolArray, IntArray, powers
from sdqn_lab.checks.ranges import Count, Share, check_arguments
from sdqn_lab.checks.refused import Refused

Array = npt.NDArray[Any]

# An age is one byte and stops counting here, so no stack can look further back.
MAX_AGE = 255
MAX_ACTION = 255
StackSize = Annotated[int, Ge(1), Le(MAX_AGE + 1)]
COLUMNS: dict[str, type[np.generic]] = {
    "rewards": np.float32,
    "actions": np.uint8,
    "terminal": np.bool_,
    "valid": np.bool_,
    "age": np.uint8,
}
# Side by side in memory, because a draw reads all of them; the largest first, so all are aligned.
RECORD = np.dtype(list(COLUMNS.items()))


class Batch(NamedTuple):
    """Transitions over k <= n steps, B of them, on one device.

    observations and next_observations (k steps later): (B, *observation_shape) in the stored
    dtype; actions (B,) int64; returns (B,) float32; discounts (B,) float32: gamma^k, 0 after a
    terminal step.
    """

    observations: Tensor
    actions: Tensor
    returns: Tensor
    discounts: Tensor
    next_observations: Tensor

    def to(self, device: torch.device) -> "Batch":
        """Copy to `device`; what is there already is not copied."""
        return Batch(*(tensor.to(device, non_blocking=True) for tensor in self))


class Replay:
    """Ring of rows; a row is one step of N environments and holds only each newest frame.

    The timeline of an environment is that of next-step autoreset, and everything else follows
    from it: the observation after row p is that of row p + 1, whatever happens. A row that is not
    `valid` holds an observation but no transition: the last one of an episode (the step that
    merely starts a new episode) or, after `close`, of an iteration. Hence

    * an n-step sum ends with row p if p is terminal or row p + 1 is not valid,
    * a row starts an episode if its predecessor is not valid.

    Rows never change once they are written, and row r of the run (counted from 0 for ever) always
    lies at r modulo the capacity: a slice of rows is all that a checkpoint must add to its last.

    Frames live on `device`, the other columns in host memory, where indices are drawn.

    Attributes:
        transitions: valid rows stored now, counted over the environments.

    Args:
        capacity_steps: transitions to hold, rounded up to whole rows; at least two rows.
        num_envs: environments N per row.
        frame_shape: shape of one frame, e.g. (1, 84, 84); frames are stacked along axis 0.
        stack: frames in an observation, 1 to 256; those before an episode's start are zeros.
        dtype: of the frames.
        device: where the frames lie.

    Raises:
        Refused: an argument outside its range.
    """

    def __init__(
        self,
        capacity_steps: Count,
        num_envs: Count,
        frame_shape: Sequence[int],
        stack: StackSize,
        *,
        dtype: torch.dtype = torch.uint8,
        device: torch.device | str = "cpu",
    ) -> None:
        check_arguments(Replay.__init__, locals())
        if capacity_steps <= num_envs:
            raise Refused("capacity_steps", capacity_steps, f"must be > {num_envs} (num_envs)")
        if not frame_shape or min(frame_shape) < 1:
            raise Refused("frame_shape", tuple(frame_shape), "must have sizes >= 1")
        self.capacity_rows = _rows(capacity_steps, num_envs)
        self.num_envs = num_envs
        self.frame_shape = tuple(frame_shape)
        self.stack = stack
        self.rows_written = 0
        self._first_row = 0
        shape = (self.capacity_rows, num_envs)
        # Memory of the frames is touched only as it fills, so that a short run stays small.
        self._frames = torch.empty((*shape, *self.frame_shape), dtype=dtype, device=device)
        self._host_frames = self._frames.numpy() if self._frames.is_cpu else None
        self._frame_dtype = torch.empty(0, dtype=dtype).numpy().dtype
        # Zeros and not leftovers: rows not yet written are none that leave when overwritten.
        self._timeline = np.zeros(shape, RECORD)
        self.transitions = 0

    @staticmethod
    def bytes_needed(
        capacity_steps: int, num_envs: int, frame_shape: Sequence[int], dtype: torch.dtype
    ) -> int:
        """Bytes that a replay of this size allocates, frames (on its device) and columns (host)."""
        frame = math.prod(frame_shape) * dtype.itemsize
        return _rows(capacity_steps, num_envs) * num_envs * (frame + RECORD.itemsize)

    @property
    def nbytes(self) -> int:
        """Bytes really allocated."""
        return self._frames.nbytes + self._timeline.nbytes

    def __str__(self) -> str:
        steps = self.capacity_rows * self.num_envs
        return f"replay of {steps:,} steps, {self.nbytes / 1e9:.2f} GB"

    @property
    def oldest_row(self) -> int:
        """Absolute number of the oldest row still stored (`rows_written` if there is none)."""
        return max(self._first_row, self.rows_written - self.capacity_rows)

    @property
    def rows(self) -> int:
        """Rows stored now, valid or not."""
        return self.rows_written - self.oldest_row

    def append(
        self,
        frames: Array,
        actions: Array,
        rewards: Array,
        *,
        terminal: BoolArray,
        valid: BoolArray,
    ) -> None:
        """Add one step of all environments, overwriting the oldest row if the ring is full.

        Args:
            frames: (N, *frame_shape) newest frame of the observation that was acted on.
            actions: (N,) integers in [0, 255].
            rewards: (N,) as learning sees them.
            terminal: (N,) no value is expected after this step (game over, or a life lost).
            valid: (N,) False for steps that ignored their action and started a new episode.

        Raises:
            Refused: arrays of another shape, frames of another dtype, an action above 255.
        """
        row = {"actions": actions, "rewards": rewards, "terminal": terminal, "valid": valid}
        _check_shape("frames", frames, (self.num_envs, *self.frame_shape))
        for name, values in row.items():
            _check_shape(name, values, (self.num_envs,))
        if frames.dtype != self._frame_dtype:
            raise Refused("frames", str(frames.dtype), f"must be {self._frame_dtype}")
        # As Python's numbers, which for so few are quicker to compare than an array is to reduce.
        numbers = actions.tolist()
        if min(numbers) < 0 or max(numbers) > MAX_ACTION:
            raise Refused("actions", numbers, f"must lie in [0, {MAX_ACTION}]")
        at = self.rows_written % self.capacity_rows
        now, before = self._timeline[at], self._timeline[at - 1]
        self.transitions += int(np.count_nonzero(valid)) - int(np.count_nonzero(now["valid"]))
        # Frames since the episode's start: so far back may a stack look.
        now["age"] = _age_after(before["age"], before["valid"]) if self.rows else 0
        if self._host_frames is None:
            self._frames[at].copy_(torch.from_numpy(frames), non_blocking=True)
        else:  # so few bytes that torch's threads cost more than they save
            self._host_frames[at] = frames
        for name, values in row.items():
            now[name] = values
        self.rows_written += 1

    def close(self, frames: Array) -> None:
        """End the timeline: episodes still running count as truncated at this observation.

        The next row begins new episodes in all environments.

        Args:
            frames: (N, *frame_shape) newest frame of the current observation.
        """
        nothing = np.zeros(self.num_envs, np.bool_)
        self.append(frames, nothing, nothing, terminal=nothing, valid=nothing)

    def can_sample(self, batch_size: int, n_step: int) -> bool:
        """Whether at least `batch_size` different transitions can surely be drawn.

        Cautious by the newest `n_step` rows and, in a ring that has overwritten rows, the oldest
        `stack - 1`, any of which may be drawable or not.
        """
        lost_rows = self.stack - 1 if self.oldest_row > 0 else 0
        return self.transitions - self.num_envs * (n_step + lost_rows) >= batch_size

    def sample(
        self, batch_size: Count, n_step: Count, gamma: Share, rng: np.random.Generator
    ) -> Batch:
        """Draw transitions uniformly, with replacement.

        Drawable is a valid row whose window's end is stored (the row after n steps, or after the
        step with which the sum ends earlier) and none of whose stacked frames is overwritten.

        Args:
            batch_size: transitions to draw, >= 1.
            n_step: steps to sum, >= 1.
            gamma: discount of one step, in [0, 1].
            rng: source of the draw; its use depends on nothing but the stored rows.

        Raises:
            Refused: an argument outside its range, or `can_sample` is False.
        """
        if min(batch_size, n_step) < 1 or not 0.0 <= gamma <= 1.0:
            check_arguments(Replay.sample, locals())  # says which; too slow for every draw
        if not self.can_sample(batch_size, n_step):
            rule = f"more than the {self.transitions} transitions in {self.rows} rows allow "
            raise Refused("batch_size", batch_size, f"{rule}with n_step={n_step}")
        # Drawn again where refused: a list of all that is drawable would need the window of every
        # row at each draw. It ends, because `can_sample` has promised that something can be drawn.
        every_place = self.rows * self.num_envs
        places = rng.integers(every_place, size=batch_size)
        drawn = Drawn.empty(batch_size, self.stack)
        stored = self._timeline, self.oldest_row, self.rows_written
        while refused := find_windows(places, *stored, powers(gamma, n_step), drawn):
            places[places < 0] = rng.integers(every_place, size=refused)
        observations, next_observations = self._observations(drawn.frames)
        return Batch(
            observations,
            self._on_device(drawn.actions),
            self._on_device(drawn.returns),
            self._on_device(drawn.discounts),
            next_observations,
        )

    def export_rows(self, first: int, last: int) -> dict[str, Array]:
        """Copy the absolute rows [first, last) into host memory, each column (rows, N, ...).

        Raises:
            Refused: rows that are not stored.
        """
        if not self.oldest_row <= first <= last <= self.rows_written:
            rule = f"must lie in [{self.oldest_row}, {self.rows_written}]"
            raise Refused("rows", f"[{first}, {last})", rule)
        at = np.arange(first, last) % self.capacity_rows
        columns = {name: self._timeline[name][at] for name in COLUMNS}
        frames = self._frames.index_select(0, self._on_device(at))
        return {"frames": frames.cpu().numpy(), **columns}

    def import_rows(self, first: int, arrays: Mapping[str, Array]) -> None:
        """Write rows made by `export_rows` at their absolute place, the next one to be written.

        An empty replay takes any `first`. With all stored rows back, `sample` draws the same.

        Raises:
            Refused: rows that do not follow the stored ones, or arrays of another shape.
        """
        if self.rows and first != self.rows_written:
            raise Refused("first", first, "must be rows_written", str(self.rows_written))
        row_shape = (len(arrays["frames"]), self.num_envs)
        _check_shape("frames", arrays["frames"], (*row_shape, *self.frame_shape))
        for name in COLUMNS:
            _check_shape(name, arrays[name], row_shape)
        if not self.rows:
            self._first_row = first
        # Rows beyond the capacity would overwrite each other: only the newest are written.
        count = len(arrays["frames"])
        kept = slice(max(0, count - self.capacity_rows), None)
        at = np.arange(first, first + count)[kept] % self.capacity_rows
        self._frames.index_copy_(
            0, self._on_device(at), self._on_device(np.ascontiguousarray(arrays["frames"][kept]))
        )
        for name in COLUMNS:
            self._timeline[name][at] = arrays[name][kept]
        self.transitions = int(np.count_nonzero(self._timeline["valid"]))
        self.rows_written = first + count

    def check_valid(self) -> None:
        """Hold the stored rows against the timeline, e.g. after reading them from a file.

        Raises:
            ValueError: an age that does not follow from the row before.
        """
        at = np.arange(self.oldest_row, self.rows_written) % self.capacity_rows
        age, valid = self._timeline["age"][at], self._timeline["valid"][at]
        wrong = np.flatnonzero((age[1:] != _age_after(age[:-1], valid[:-1])).any(axis=1))
        if wrong.size:
            row = self.oldest_row + int(wrong[0]) + 1
            raise ValueError(f"replay row {row} does not follow from the row before it")

    def _observations(self, places: IntArray) -> tuple[Tensor, ...]:
        """Both ends (2, B, S) of the windows, as two batches of stacked frames."""
        # Zeros before the start, as the vector emulator shows them to the acting network; the
        # original repeats the first frame (docs/DEVIATIONS.md, row 25). Memory and acting must see
        # the same observation.
        depth, *rest = self.frame_shape
        shape = (places.shape[1], self.stack * depth, *rest)
        if self._host_frames is None:
            # One gather for both ends: on a GPU two would wait for the host twice.
            index = self._on_device(np.maximum(places, 0).ravel())
            picked = self._frames.flatten(0, 1).flatten(1).index_select(0, index)
            picked.index_fill_(0, self._on_device(np.flatnonzero(places < 0)), 0)
            return picked.view(2, *shape).unbind()
        stored = self._host_frames.reshape(-1, *self.frame_shape)
        stacks = stored.take(places, axis=0, mode="clip")  # what `raise` does, without its copy
        if self.stack > 1:
            stacks[places < 0] = 0
        first, second = stacks.reshape(2, *shape)
        return torch.from_numpy(first), torch.from_numpy(second)

    def _on_device(self, array: Array) -> Tensor:
        tensor = torch.from_numpy(array)
        if self._host_frames is not None:  # `to` would find that out more slowly
            return tensor
        return tensor.to(self._frames.device, non_blocking=True)


def _rows(capacity_steps: int, num_envs: int) -> int:
    return -(-capacity_steps // num_envs)


def _age_after(age: Array, valid: Array) -> Array:
    return (np.minimum(age, MAX_AGE - 1) + 1) * valid


def _check_shape(name: str, array: Array, shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise Refused(name, array.shape, f"must have shape {shape}")
