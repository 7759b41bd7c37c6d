"""An environment: one class of Gymnasium's; `conf/env/catch.yaml` is its option."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray

ROWS, COLUMNS, PIXELS = 10, 5, 32


class Catch(gymnasium.Env[NDArray[np.float32], Any]):
    """A ball falls down a board of 10 x 5 cells, and a paddle in the last row is to catch it.

    The ball starts in any column of the first row, the paddle in the middle. After nine steps the
    ball is down: 1 if the paddle is below it, -1 otherwise. Every start can be caught, so the best
    mean return is 1. Observed are all 50 cells, row by row, 1 for ball and paddle.

    Source: Mnih et al. 2014; the sizes of Osband et al. 2020 (bsuite).
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 5}  # noqa: RUF012  (as in its base)
    action_names = ("left", "stay", "right")

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.observation_space = Box(0.0, 1.0, (ROWS * COLUMNS,), np.float32)
        self.action_space = Discrete(3)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """A ball at the top."""
        super().reset(seed=seed)
        self.row, self.column, self.paddle = 0, int(self.np_random.integers(COLUMNS)), COLUMNS // 2
        return self._board().ravel(), {}

    def step(self, action: Any) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """The paddle moves, the ball falls."""
        self.paddle = min(max(self.paddle + int(action) - 1, 0), COLUMNS - 1)
        self.row += 1
        down = self.row == ROWS - 1
        reward = float(np.where(self.paddle == self.column, 1.0, -1.0)) if down else 0.0
        return self._board().ravel(), reward, down, False, {}

    def render(self) -> Any:
        """The board, black and white."""
        cells = (255 * self._board()).astype(np.uint8)
        return cells.repeat(PIXELS, 0).repeat(PIXELS, 1)[..., None].repeat(3, 2)

    def _board(self) -> NDArray[np.float32]:
        # A new array each time, because learning keeps what was shown.
        board = np.zeros((ROWS, COLUMNS), np.float32)
        board[self.row, self.column] = board[-1, self.paddle] = 1.0
        return board


gymnasium.register("Catch-v0", "own_plugins.env:Catch")
