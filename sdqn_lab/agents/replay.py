"""Replay memory that holds each frame once and rebuilds stacks and n-step windows when drawing."""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from annotated_types import Ge, Le
from torch import Tensor

from sdqn_lab.agents.returns import BoolArray, IntArray, n_step_return, summed_steps
from sdqn_lab.checks.ranges import Count, Share, check_arguments
from sdqn_lab.checks.refused import Refused

Array = npt.NDArray[Any]

# An age is one byte and stops counting here, so no stack can look further back.
MAX_AGE = 255
MAX_ACTION = 255
StackSize = Annotated[int, Ge(1), Le(MAX_AGE + 1)]
COLUMNS: dict[str, np.dtype[Any]] = {
    "actions": np.dtype(np.uint8),
    "rewards": np.dtype(np.float32),
    "terminal": np.dtype(np.bool_),
    "valid": np.dtype(np.bool_),
    "age": np.dtype(np.uint8),
}


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
        # Zeros and not leftovers: `transitions` counts all of `valid`, also rows not yet written.
        self._columns = {name: np.zeros(shape, kind) for name, kind in COLUMNS.items()}

    @staticmethod
    def bytes_needed(
        capacity_steps: int, num_envs: int, frame_shape: Sequence[int], dtype: torch.dtype
    ) -> int:
        """Bytes that a replay of this size allocates, frames (on its device) and columns (host)."""
        frame = math.prod(frame_shape) * dtype.itemsize
        columns = sum(kind.itemsize for kind in COLUMNS.values())
        return _rows(capacity_steps, num_envs) * num_envs * (frame + columns)

    @property
    def nbytes(self) -> int:
        """Bytes really allocated."""
        return self._frames.nbytes + sum(column.nbytes for column in self._columns.values())

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

    @property
    def transitions(self) -> int:
        """Valid rows stored now, counted over the environments."""
        return int(np.count_nonzero(self._columns["valid"]))

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
        if not 0 <= actions.min() <= actions.max() <= MAX_ACTION:
            raise Refused("actions", actions.tolist(), f"must lie in [0, {MAX_ACTION}]")
        at = self.rows_written % self.capacity_rows
        # Frames since the episode's start: so far back may a stack look.
        age: Array = np.zeros(self.num_envs, np.uint8)
        if self.rows:
            before = (self.rows_written - 1) % self.capacity_rows
            age = _age_after(self._columns["age"][before], self._columns["valid"][before])
        self._columns["age"][at] = age
        if self._host_frames is None:
            self._frames[at].copy_(torch.from_numpy(frames), non_blocking=True)
        else:  # so few bytes that torch's threads cost more than they save
            self._host_frames[at] = frames
        for name, values in row.items():
            self._columns[name][at] = values
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
        while (refused := np.flatnonzero(~self._drawable(places, n_step))).size:
            places[refused] = rng.integers(every_place, size=refused.size)
        rows, envs = self._locate(places)
        at = self._window(rows, n_step)
        terminal, stop = self._ends(at, envs)
        rewards = self._columns["rewards"][at[:-1], envs]
        returns, discounts, lengths = n_step_return(rewards, terminal, stop, gamma)
        # One gather for both ends: on a GPU two would wait for the host twice.
        observations = self._observations(
            np.concatenate([rows, rows + lengths]), np.concatenate([envs, envs])
        )
        return Batch(
            observations[:batch_size],
            self._on_device(self._columns["actions"][at[0], envs].astype(np.int64)),
            self._on_device(returns.astype(np.float32)),
            self._on_device(discounts.astype(np.float32)),
            observations[batch_size:],
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
        columns = {name: column[at] for name, column in self._columns.items()}
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
        for name, column in self._columns.items():
            column[at] = arrays[name][kept]
        self.rows_written = first + count

    def check_valid(self) -> None:
        """Hold the stored rows against the timeline, e.g. after reading them from a file.

        Raises:
            ValueError: an age that does not follow from the row before.
        """
        at = np.arange(self.oldest_row, self.rows_written) % self.capacity_rows
        age, valid = self._columns["age"][at], self._columns["valid"][at]
        wrong = np.flatnonzero((age[1:] != _age_after(age[:-1], valid[:-1])).any(axis=1))
        if wrong.size:
            row = self.oldest_row + int(wrong[0]) + 1
            raise ValueError(f"replay row {row} does not follow from the row before it")

    def _locate(self, places: IntArray) -> tuple[IntArray, IntArray]:
        return self.oldest_row + places // self.num_envs, places % self.num_envs

    def _drawable(self, places: IntArray, n_step: int) -> BoolArray:
        rows, envs = self._locate(places)
        at = self._window(rows, n_step)
        _, stop = self._ends(at, envs)
        # Rows beyond the newest hold leftovers. They can only make a window longer that has
        # left the stored rows already, so its end is refused all the same.
        end = rows + summed_steps(stop).sum(axis=0)
        oldest_frame = rows - np.minimum(self._columns["age"][at[0], envs], self.stack - 1)
        stored: BoolArray = (end < self.rows_written) & (oldest_frame >= self.oldest_row)
        stored &= self._columns["valid"][at[0], envs]
        return stored

    def _window(self, rows: IntArray, n_step: int) -> IntArray:
        """Ring places (n_step + 1, B) of each row and its successors."""
        return (rows + np.arange(n_step + 1)[:, None]) % self.capacity_rows

    def _ends(self, at: IntArray, envs: IntArray) -> tuple[BoolArray, BoolArray]:
        terminal = self._columns["terminal"][at[:-1], envs]
        return terminal, terminal | ~self._columns["valid"][at[1:], envs]

    def _observations(self, rows: IntArray, envs: IntArray) -> Tensor:
        back = np.arange(self.stack)[::-1]
        at = (rows[:, None] - back) % self.capacity_rows
        age = self._columns["age"][at[:, -1], envs]
        before_start = np.flatnonzero(back > age[:, None])
        frames = self._frames.flatten(0, 1).flatten(1)
        index = (at * self.num_envs + envs[:, None]).ravel()
        picked = frames.index_select(0, self._on_device(index))
        # As the vector emulator shows them to the acting network; the original repeats the first
        # frame (docs/DEVIATIONS.md, row 25). Memory and acting must see the same observation.
        picked.index_fill_(0, self._on_device(before_start), 0)
        depth, *rest = self.frame_shape
        return picked.view(len(rows), self.stack * depth, *rest)

    def _on_device(self, array: Array) -> Tensor:
        return torch.from_numpy(array).to(self._frames.device, non_blocking=True)


def _rows(capacity_steps: int, num_envs: int) -> int:
    return -(-capacity_steps // num_envs)


def _age_after(age: Array, valid: Array) -> Array:
    return np.where(valid, np.minimum(age, MAX_AGE - 1) + 1, 0).astype(np.uint8)


def _check_shape(name: str, array: Array, shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise Refused(name, array.shape, f"must have shape {shape}")
