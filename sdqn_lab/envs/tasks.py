"""Two small tasks for rules of plasticity, as Gymnasium environments: `Bandit-v0`, `Gridworld-v0`.

`sdqn_lab.envs.classic` registers them. What is seen is one of a few states, as a vector with a
single 1.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray

PIXELS = 32
"""Of a square, in pictures."""
GROUND, GOAL, AGENT = (24, 24, 32), (70, 160, 90), (240, 190, 60)


class OneHot(gymnasium.Env[NDArray[np.float32], Any]):
    """A task with numbered states that shows the current one.

    Args:
        render_mode: rgb_array or None, as Gymnasium has it.

    Attributes:
        state: the current one, in [0, num_states).
    """

    metadata: Mapping[str, Any] = {  # type: ignore[assignment]
        "render_modes": ["rgb_array"],
        "render_fps": 4,
    }
    num_states: ClassVar[int]

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.observation_space = Box(0.0, 1.0, (self.num_states,), np.float32)
        self.action_space = Discrete(4)
        self.state = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begin in a state that is drawn."""
        super().reset(seed=seed)
        self.state = self.first()
        return self.observation(), {}

    def first(self) -> int:
        """The state of a new episode; all are equally likely."""
        return int(self.np_random.integers(self.num_states))

    def observation(self) -> NDArray[np.float32]:
        """The state as a vector (num_states,) with a single 1."""
        # A new array each time, because learning keeps what was shown.
        shown = np.zeros(self.num_states, np.float32)
        shown[self.state] = 1.0
        return shown


class Bandit(OneHot):
    """A contextual bandit: four contexts, four actions, episodes of one step.

    In context c the action (c + 1) mod 4 earns 1 and every other 0. Chance earns 1/4.
    """

    num_states = 4

    def step(self, action: Any) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """One answer, and the episode is over."""
        right = int(action) == (self.state + 1) % self.num_states
        return self.observation(), float(right), True, False, {}

    def render(self) -> Any:
        """A row of contexts, the current one lit."""
        return drawn(1, self.num_states, {self.state: AGENT})


class Gridworld(OneHot):
    """A square room of 5x5 cells with place cells: find the corner.

    State 5 * row + column; actions up, right, down, left; walls stop. The goal is cell 24, at the
    lower right; episodes start in any other cell. Reaching it earns 1 and ends the episode, every
    other step costs 0.02. Gymnasium truncates after 50 steps. The best mean return is
    1 - 0.02 (25 / 6 - 1) = 0.937, as the mean distance to the goal is 25 / 6.
    """

    size = 5
    num_states = size * size
    moves = ((-1, 0), (0, 1), (1, 0), (0, -1))
    action_names = ("up", "right", "down", "left")

    def first(self) -> int:
        """Any cell but the goal."""
        return int(self.np_random.integers(self.num_states - 1))

    def step(self, action: Any) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """One move."""
        cell, last = divmod(self.state, self.size), self.size - 1
        row, column = (
            min(max(at + by, 0), last) for at, by in zip(cell, self.moves[action], strict=True)
        )
        self.state = self.size * row + column
        found = self.state == self.num_states - 1
        return self.observation(), 1.0 if found else -0.02, found, False, {}

    def render(self) -> Any:
        """The room from above."""
        return drawn(self.size, self.size, {self.num_states - 1: GOAL, self.state: AGENT})


def drawn(rows: int, columns: int, lit: Mapping[int, tuple[int, int, int]]) -> NDArray[np.uint8]:
    """A picture (H, W, 3) of squares, of which some have a colour."""
    squares = np.full((rows * columns, 3), GROUND, np.uint8)
    for square, color in lit.items():
        squares[square] = color
    picture = squares.reshape(rows, columns, 3).repeat(PIXELS, 0).repeat(PIXELS, 1)
    picture[::PIXELS], picture[:, ::PIXELS] = 0, 0
    return picture
