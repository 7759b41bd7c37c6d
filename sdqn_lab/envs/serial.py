"""N Gymnasium environments that are stepped one after the other, as one vector environment."""

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray

from sdqn_lab.checks.ranges import Count, check_arguments
from sdqn_lab.envs.base import (
    ActionBox,
    Actions,
    EnvironmentFailed,
    Step,
    check_actions,
    check_box_actions,
    environment_seeds,
)

Game = gymnasium.Env[NDArray[Any], Any]


class Serial:
    """The vector environment over copies of one game; one step is one frame, nothing is stacked.

    It does what `gymnasium.vector.SyncVectorEnv` does with next-step autoreset and a `TimeLimit`,
    and no more: there, spaces, infos and deep copies cost 5 to 12 % of MinAtar's steps per second.

    Args:
        name: the environment's id, for messages.
        make: makes one copy, whose actions begin with 0, or are vectors in a `Box` and may lie
            beyond its bounds. Observations are cast to its space's type, `render` returns a
            picture, `render_fps` of its `metadata` is the speed at which a person watches, and it
            may name its actions in `action_names`.
        num_envs: N.
        episode_cap_frames: steps after which an episode is truncated.

    Raises:
        Refused: `num_envs` < 1.
    """

    stack = 1
    frames_per_step = 1

    def __init__(
        self,
        name: str,
        make: Callable[[], Game],
        num_envs: Count,
        episode_cap_frames: int,
    ) -> None:
        check_arguments(Serial.__init__, locals())
        self.name = name
        self.num_envs = num_envs
        self._games = [make() for _ in range(num_envs)]
        first: Any = self._games[0]
        self.observation_shape: tuple[int, ...] = first.observation_space.shape
        self.observation_dtype: np.dtype[Any] = first.observation_space.dtype
        actions = first.action_space
        self.action_box: ActionBox | None = None
        if isinstance(actions, Box):
            bounds = actions.low.tolist(), actions.high.tolist()
            self.action_box = ActionBox(*map(tuple, bounds))
        self.num_actions = int(self.action_box.size if self.action_box else actions.n)
        numbers = map(str, range(self.num_actions))
        self.action_names: tuple[str, ...] = getattr(first, "action_names", tuple(numbers))
        speed: Any = (getattr(first, "metadata", None) or {}).get("render_fps")
        known = isinstance(speed, int | float) and speed > 0
        self.decisions_per_second = float(speed) if known else 10.0
        self._cap = episode_cap_frames

    def reset(self, seed: int) -> NDArray[Any]:
        """Start all games anew from a seed in [0, 2**31); see `VectorEnv`."""
        seeds = environment_seeds(seed, self.num_envs)
        try:
            games = zip(self._games, seeds, strict=True)
            observations = self._batch([game.reset(seed=seed)[0] for game, seed in games])
        except Exception as error:  # an environment may fail in any way
            raise EnvironmentFailed(self.name, error) from error
        self._age = np.zeros(self.num_envs, np.int64)
        self._over = np.zeros(self.num_envs, np.bool_)
        return observations

    def step(self, actions: Actions) -> Step:
        """Play one action in each game; a game that has ended starts anew instead.

        Raises:
            EnvironmentFailed: a game raised.
        """
        if self.action_box is None:
            check_actions(actions, self.num_envs, self.num_actions)
        else:
            check_box_actions(actions, self.num_envs, self.action_box)
        # Numbers of Python, but arrays of continuous actions.
        given = actions.tolist() if self.action_box is None else actions
        started = self._over
        try:
            games = zip(self._games, given, started.tolist(), strict=True)
            outcomes = [
                (game.reset()[0], 0.0, False, False, {}) if over else game.step(action)
                for game, action, over in games
            ]
            seen, gains, ends, cuts, _ = zip(*outcomes, strict=True)
            observations = self._batch(seen)
        except Exception as error:  # an environment may fail in any way
            raise EnvironmentFailed(self.name, error) from error
        # Fresh arrays in every step: replay and recordings may keep what they were handed.
        rewards, terminated = np.array(gains, np.float32), np.array(ends, np.bool_)
        self._age = (self._age + 1) * ~started
        # A game that is over at the very cap has ended: nothing is left to bootstrap from.
        truncated = (np.array(cuts, np.bool_) | (self._age >= self._cap)) & ~terminated
        self._over = terminated | truncated
        life_lost = np.zeros(self.num_envs, np.bool_)
        return Step(observations, rewards, terminated, truncated, life_lost, started)

    def _batch(self, seen: Sequence[NDArray[Any]]) -> NDArray[Any]:
        """A fresh (N, *observation_shape) of what each game has returned."""
        return np.array(seen, self.observation_dtype)

    def picture(self) -> NDArray[np.uint8]:
        """Return what a person sees of the first game; see `Watchable`."""
        picture: Any = self._games[0].render()
        return np.asarray(picture, np.uint8)

    def close(self) -> None:
        """Close every game."""
        for game in self._games:
            game.close()
