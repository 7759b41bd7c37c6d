"""N Python environments that are stepped one after the other, as one vector environment."""

from __future__ import annotations

import typing
from collections.abc import Sequence

import numpy as np
from numpy.typing import DTypeLike, NDArray

from sdqn_lab.envs.base import Step, check_actions, check_num_envs, environment_seeds


class Game(typing.Protocol):
    """One environment of a `Serial`."""

    def seed(self, seed: int) -> None:
        """Forget everything; the games that follow are a function of the seed and the actions."""
        ...

    def start(self) -> NDArray[typing.Any]:
        """Start the next episode and return its first observation."""
        ...

    def play(self, action: int) -> tuple[NDArray[typing.Any], float, bool, bool]:
        """Return the next observation, the reward, and whether terminated, whether truncated."""
        ...

    def picture(self) -> NDArray[np.uint8]:
        """Return what a person sees of the game now, RGB (H, W, 3); see `Watchable`."""
        ...

    def close(self) -> None:
        """Give back what the game holds."""
        ...


class Serial:
    """The vector environment over a list of games; one step is one frame, nothing is stacked.

    Args:
        games: N >= 1 independent games of one kind.
        observation_shape: Shape of one observation.
        observation_dtype: Type to which observations are cast.
        num_actions: Number of actions of each game.
        episode_cap_frames: Steps after which an episode is truncated.
        action_names: A word for each action; None: its number.
        decisions_per_second: Speed at which a person watches.

    Raises:
        ValueError: There is no game.
    """

    stack = 1
    frames_per_step = 1

    def __init__(
        self,
        games: Sequence[Game],
        *,
        observation_shape: tuple[int, ...],
        observation_dtype: DTypeLike,
        num_actions: int,
        episode_cap_frames: int,
        action_names: Sequence[str] | None = None,
        decisions_per_second: float = 10.0,
    ) -> None:
        check_num_envs(len(games))
        self.num_envs = len(games)
        self.observation_shape = observation_shape
        self.observation_dtype = np.dtype(observation_dtype)
        self.num_actions = num_actions
        self.action_names = tuple(action_names or map(str, range(num_actions)))
        self.decisions_per_second = decisions_per_second
        self._games = list(games)
        self._cap = episode_cap_frames

    def reset(self, seed: int) -> NDArray[typing.Any]:
        """Start all games anew from a seed in [0, 2**31); see `VectorEnv`."""
        observations = self._empty()
        for row, game_seed in enumerate(environment_seeds(seed, self.num_envs)):
            self._games[row].seed(game_seed)
            observations[row] = self._games[row].start()
        self._age = np.zeros(self.num_envs, np.int64)
        self._over = np.zeros(self.num_envs, np.bool_)
        return observations

    def step(self, actions: NDArray[np.integer[typing.Any]]) -> Step:
        """Play one action (N,) in each game; a game that has ended starts anew instead."""
        check_actions(actions, self.num_envs, self.num_actions)
        started = self._over
        observations, rewards = self._empty(), np.zeros(self.num_envs, np.float32)
        terminated = np.zeros(self.num_envs, np.bool_)
        truncated = np.zeros(self.num_envs, np.bool_)
        for row, (game, action) in enumerate(zip(self._games, actions.tolist(), strict=True)):
            if started[row]:
                observations[row] = game.start()
                continue
            observations[row], rewards[row], terminated[row], truncated[row] = game.play(action)
        self._age = np.where(started, 0, self._age + 1)
        truncated = (truncated | (self._age >= self._cap)) & ~terminated
        self._over = terminated | truncated
        return Step(observations, rewards, terminated, truncated, np.zeros_like(started), started)

    def picture(self) -> NDArray[np.uint8]:
        """Return what a person sees of the first game; see `Watchable`."""
        return self._games[0].picture()

    def close(self) -> None:
        """Close every game."""
        for game in self._games:
            game.close()

    def _empty(self) -> NDArray[typing.Any]:
        return np.empty((self.num_envs, *self.observation_shape), self.observation_dtype)
