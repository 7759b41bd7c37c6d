"""MinAtar: five Atari games in miniature, 10 x 10 cells with one binary channel per object."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from sdqn_lab.envs.base import Protocol, check_num_envs
from sdqn_lab.envs.serial import Serial

RGB = tuple[int, int, int]
GAMES = ("asterix", "breakout", "freeway", "seaquest", "space_invaders")

ACTIONS = {"n": "no-op", "l": "left", "u": "up", "r": "right", "d": "down", "f": "fire"}
GROUND: RGB = (16, 20, 28)
COLORS: Mapping[str, RGB] = {
    "trail": (74, 85, 104),
    **{f"speed{level}": (45 + 14 * level, 52 + 15 * level, 66 + 18 * level) for level in range(6)},
    "brick": (213, 94, 0),
    "alien": (213, 94, 0),
    "car": (230, 159, 0),
    "enemy": (213, 94, 0),
    "enemy_fish": (213, 94, 0),
    "enemy_sub": (230, 159, 0),
    "oxygen_guage": (0, 114, 178),
    "diver_guage": (0, 158, 115),
    "diver": (0, 158, 115),
    "gold": (240, 228, 66),
    "enemy_bullet": (204, 121, 167),
    "friendly_bullet": (255, 255, 255),
    "ball": (255, 255, 255),
    "sub_back": (46, 128, 178),
    **dict.fromkeys(("paddle", "player", "chicken", "cannon", "sub_front"), (86, 180, 233)),
}
"""Channel by MinAtar's own name -> its colour, after Okabe and Ito; what comes later covers what
came before. Channels that only say where aliens are going have no colour."""


class MinAtar(Serial):
    """N copies of one MinAtar game; observations are (C, 10, 10) uint8 of zeros and ones.

    With ``protocol.full_action_space`` all six actions are offered, otherwise those that the game
    distinguishes. The sticky action survives the end of an episode, as in the original.

    Args:
        game: One of `GAMES`.
        num_envs: N >= 1.
        protocol: The rules of play; no-ops, fire reset and lives do not exist here.

    Raises:
        ValueError: The game is unknown, ``num_envs`` < 1, or the protocol asks for what MinAtar
            does not have.

    Source: Young and Tian 2019.
    """

    def __init__(self, game: str, num_envs: int, protocol: Protocol) -> None:
        check_num_envs(num_envs)
        if game not in GAMES:
            raise ValueError(
                f"game must be one of {', '.join(GAMES)}, got {game}: "
                f"write env=minatar_breakout or another of them"
            )
        protocol.require(
            "MinAtar", "minatar", noop_max=0, fire_reset=False, life_loss_ends_bootstrap=False
        )
        copies = [_Game(game, protocol) for _ in range(num_envs)]
        super().__init__(
            copies,
            observation_shape=copies[0].observation_shape,
            observation_dtype=np.uint8,
            num_actions=len(copies[0].actions),
            episode_cap_frames=protocol.episode_cap_frames,
            action_names=copies[0].action_names,
        )


class _Game:
    def __init__(self, game: str, protocol: Protocol) -> None:
        # Imported here: the package draws in plotting libraries that take seconds to load.
        from minatar import Environment

        self._environment = Environment(
            game,
            sticky_action_prob=protocol.sticky_actions,
            difficulty_ramping=protocol.difficulty_ramping,
        )
        height, width, channels = self._environment.state_shape()
        self.observation_shape = (channels, height, width)
        self.actions: list[int] = (
            list(range(self._environment.num_actions()))
            if protocol.full_action_space
            else self._environment.minimal_action_set()
        )
        letters = self._environment.env.action_map
        self.action_names = [ACTIONS[letters[action]] for action in self.actions]

    def seed(self, seed: int) -> None:
        self._environment.seed(seed)
        self._environment.last_action = 0

    def start(self) -> NDArray[np.bool_]:
        self._environment.reset()
        return self._observation()

    def play(self, action: int) -> tuple[NDArray[np.bool_], float, bool, bool]:
        reward, terminated = self._environment.act(self.actions[action])
        return self._observation(), reward, terminated, False

    def picture(self) -> NDArray[np.uint8]:
        state: NDArray[np.bool_] = self._environment.state()
        picture = np.full((*state.shape[:2], 3), GROUND, np.uint8)
        channels: Mapping[str, int] = self._environment.env.channels
        for name in (name for name in COLORS if name in channels):
            picture[state[:, :, channels[name]].astype(bool)] = COLORS[name]
        return picture

    def close(self) -> None:
        """Nothing is held."""

    def _observation(self) -> NDArray[np.bool_]:
        state: NDArray[np.bool_] = self._environment.state()
        return state.transpose(2, 0, 1)
