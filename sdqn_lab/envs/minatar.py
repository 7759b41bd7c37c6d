"""MinAtar: five Atari games in miniature, 10 x 10 cells with one binary channel per object."""

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray

from sdqn_lab.checks.extras import MINATAR
from sdqn_lab.checks.refused import Refused
from sdqn_lab.envs.base import Protocol
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

    With `protocol.full_action_space` all six actions are offered, otherwise those that the game
    distinguishes. The sticky action survives the end of an episode, as in the original.

    Args:
        id: one of `GAMES`.
        num_envs: N.
        protocol: the rules of play; no-ops, fire reset and lives do not exist here.

    Raises:
        Refused: the game is unknown, `num_envs` < 1, or the protocol asks for what MinAtar does
            not have.

    Source: Young and Tian 2019.
    """

    def __init__(self, id: str, num_envs: int, protocol: Protocol) -> None:
        if id not in GAMES:
            rule = f"must be one of {', '.join(GAMES)}"
            raise Refused("id", id, rule, "env=minatar_breakout")
        MINATAR.demand("id")
        protocol.require(
            "MinAtar", "minatar", noop_max=0, fire_reset=False, life_loss_ends_bootstrap=False
        )
        super().__init__(
            f"MinAtar {id}",
            lambda: _Game(id, protocol),
            num_envs,
            protocol.episode_cap_frames,
        )

    def _batch(self, seen: Sequence[NDArray[Any]]) -> NDArray[np.uint8]:
        # Joined as bytes and turned around together: one by one would take three times as long.
        channels, height, width = self.observation_shape
        joined = np.frombuffer(b"".join(frame.data for frame in seen), np.uint8)
        return joined.reshape(-1, height, width, channels).transpose(0, 3, 1, 2).copy()


class _Game(gymnasium.Env[NDArray[Any], Any]):
    # It returns what the game shows, (H, W, C) of bool, and announces what `MinAtar` makes of it.
    # MinAtar's own class for Gymnasium keeps the sticky action of the run before over a new seed.
    metadata: Mapping[str, Any] = {"render_fps": 10}  # type: ignore[assignment]

    def __init__(self, game: str, protocol: Protocol) -> None:
        # Imported here: the package draws in plotting libraries that take seconds to load.
        from minatar import Environment

        self._environment = Environment(
            game,
            sticky_action_prob=protocol.sticky_actions,
            difficulty_ramping=protocol.difficulty_ramping,
        )
        letters: str = self._environment.env.action_map
        self._actions: list[int] = (
            list(range(len(letters)))
            if protocol.full_action_space
            else self._environment.minimal_action_set()
        )
        self.action_names = tuple(ACTIONS[letters[action]] for action in self._actions)
        self.action_space = Discrete(len(self._actions))
        height, width, channels = self._environment.state_shape()
        self.observation_space = Box(0, 1, (channels, height, width), np.uint8)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.bool_], dict[str, Any]]:
        if seed is not None:
            # Before `reset`, which draws in some games. MinAtar's `seed` keeps the last action, and
            # the first sticky one would be that of the run before: a replay would go astray.
            self._environment.seed(seed)
            self._environment.last_action = 0
        self._environment.reset()
        return self._environment.state(), {}

    def step(self, action: int) -> tuple[NDArray[np.bool_], float, bool, bool, dict[str, Any]]:
        reward, terminated = self._environment.act(self._actions[action])
        return self._environment.state(), reward, terminated, False, {}

    def render(self) -> NDArray[np.uint8]:
        state: NDArray[np.bool_] = self._environment.state()
        picture = np.full((*state.shape[:2], 3), GROUND, np.uint8)
        channels: Mapping[str, int] = self._environment.env.channels
        for name in (name for name in COLORS if name in channels):
            picture[state[:, :, channels[name]].astype(bool)] = COLORS[name]
        return picture
