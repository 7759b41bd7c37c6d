"""Atari 2600 games on the vector emulator of the Arcade Learning Environment."""

import difflib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from sdqn_lab.checks.extras import ATARI
from sdqn_lab.checks.ranges import Count, Natural, check_arguments
from sdqn_lab.checks.refused import Refused
from sdqn_lab.envs.base import (
    PICTURE_TOO_LATE,
    Actions,
    Protocol,
    Step,
    check_actions,
    environment_seeds,
)
from sdqn_lab.envs.scores import reference_scores

if TYPE_CHECKING:
    from ale_py.vector_env import AtariVectorEnv

REFUSED = ("combat", "joust", "maze_craze", "warlords")
"""Games for two players only: the emulator ends the whole process when it loads one of them."""


def games() -> list[str]:
    """Return the ids of all games that can be played, in alphabetical order.

    Without the emulator, those of the usual benchmark: they are options, which say what is missing.
    """
    try:
        from ale_py import roms
    except ImportError:
        return sorted(reference_scores())
    return sorted(set(roms.get_all_rom_ids()) - set(REFUSED))


class Atari:
    """N copies of one Atari game.

    One step holds an action for 4 emulator frames; a frame of the observation is the pixelwise
    maximum of the last two, in grey, shrunk to 84 x 84 by area averaging (Mnih et al. 2015). An
    observation is the last 4 of these frames, oldest first, uint8 (4, 84, 84). At an episode's
    start the missing frames are zeros: the emulator clears its stack *after* FIRE and no-ops,
    so that one frame per step suffices to rebuild every stack.

    A game opens with one frame of FIRE, if `protocol.fire_reset` and the game has that action,
    and then with no-ops, so that at most `max(protocol.noop_max, 1)` frames pass before the
    first observation. These frames do not count towards `protocol.episode_cap_frames`.

    A life is lost where the emulator's counter goes down and the game is not over, also from 1
    to 0: in about ten games (`bank_heist`, `donkey_kong`, `frogger`, ...) 0 stands for
    the last life, which is still being played. Games without a counter (`pong`) lose none.

    The emulator stops at the very frame that ends an episode without drawing it: the newest frame
    of an episode's last observation pools older frames. After a termination nobody asks for its
    value; after a truncation the bootstrap sees a picture that is one emulator frame old, laid
    over the frame before.

    The picture is the screen in colour, at its own size and pooled over the same two frames, so
    that objects which the console draws in turns do not flicker.

    Args:
        id: one of `games()`, such as `space_invaders`.
        num_envs: N.
        protocol: the rules of play.
        num_threads: threads of the emulator, 0 for as many as pay; never changes a number.

    Raises:
        Refused: the game is unknown or for two players, a number is out of range, or the protocol
            asks for difficulty ramping.

    Source: Bellemare et al. 2013 (emulator); Mnih et al. 2015 (preprocessing); Machado et al. 2018
    (sticky actions).
    """

    observation_shape: tuple[int, ...] = (4, 84, 84)
    observation_dtype = np.dtype(np.uint8)
    stack = 4
    frames_per_step = 4
    decisions_per_second = 15.0

    def __init__(
        self, id: str, num_envs: Count, protocol: Protocol, num_threads: Natural = 0
    ) -> None:
        check_arguments(Atari.__init__, locals())
        ATARI.demand("id")
        if id in REFUSED:
            rule = "must be a game for one player: the emulator ends the whole process here"
            raise Refused("id", id, rule, "env=pong")
        if id not in games():
            close = difflib.get_close_matches(id, games(), n=3) or ["pong", "breakout"]
            rule = f"must be one of the {len(games())} playable ids of ALE"
            raise Refused("id", id, rule, f"env={' or env='.join(close)}")
        protocol.require("Atari games", "braincog", difficulty_ramping=False)
        self.num_envs = num_envs
        self._game, self._protocol = id, protocol
        self._emulators = self._opened(num_envs, num_threads, 84, 84, grayscale=True)
        self._screen: AtariVectorEnv | None = None
        actions = self._emulators.ale.get_action_set()
        self.num_actions = len(actions)
        # UPRIGHTFIRE is shown as `up right fire`.
        words = [re.findall("UP|DOWN|LEFT|RIGHT|FIRE", action.name) for action in actions]
        self.action_names = tuple(" ".join(parts).lower() or "no-op" for parts in words)

    def _opened(
        self, num_envs: int, num_threads: int, height: int, width: int, grayscale: bool
    ) -> "AtariVectorEnv":
        from ale_py.vector_env import AtariVectorEnv

        protocol = self._protocol
        return AtariVectorEnv(
            self._game,
            num_envs,
            num_threads=num_threads,
            max_num_frames_per_episode=protocol.episode_cap_frames,
            repeat_action_probability=protocol.sticky_actions,
            full_action_space=protocol.full_action_space,
            autoreset_mode="NextStep",
            img_height=height,
            img_width=width,
            grayscale=grayscale,
            stack_num=self.stack,
            frameskip=self.frames_per_step,
            maxpool=True,
            # The emulator draws from [0, noop_max - 1]; our noop_max itself can be drawn.
            noop_max=protocol.noop_max + 1,
            # A lost life only cuts the bootstrap in learning; the game and its score go on.
            episodic_life=False,
            life_loss_info=False,
            reward_clipping=False,
            use_fire_reset=protocol.fire_reset,
        )

    def reset(self, seed: int) -> NDArray[Any]:
        """Start all games anew from a seed in [0, 2**31); see `VectorEnv`."""
        seeds = np.array(environment_seeds(seed, self.num_envs))
        observations, info = self._emulators.reset(seed=seeds)
        self._lives: NDArray[np.int32] = info["lives"]
        self._over = np.zeros(self.num_envs, np.bool_)
        self._first_seed: NDArray[np.int64] | None = seeds[:1]
        if self._screen is not None:
            self._shown = self._screen.reset(seed=seeds[:1])[0]
        return cast(NDArray[Any], observations)

    def step(self, actions: Actions) -> Step:
        """Play one action (N,) in each game; see `VectorEnv`."""
        check_actions(actions, self.num_envs, self.num_actions)
        observations, rewards, terminated, truncated, info = self._emulators.step(
            actions.astype(np.int64, copy=False)
        )
        self._first_seed = None
        if self._screen is not None:
            self._shown = self._screen.step(actions[:1].astype(np.int64, copy=False))[0]
        started = self._over
        # The counter also goes down with the game and up with the next; neither is a lost life.
        life_lost = (info["lives"] < self._lives) & ~terminated & ~started
        self._lives = info["lives"]
        # The emulator starts a game anew in the step after its end, and does not say so.
        self._over = terminated | truncated
        return Step(
            observations, rewards.astype(np.float32), terminated, truncated, life_lost, started
        )

    def picture(self) -> NDArray[np.uint8]:
        """Return the first game's screen; a second emulator draws it, see `Watchable`."""
        from ale_py import ALEInterface, LoggerMode, roms

        if self._screen is None:
            if self._first_seed is None:
                raise ValueError(PICTURE_TOO_LATE)
            # The screen's size is not the same for all games.
            ALEInterface.setLoggerMode(LoggerMode.Error)
            emulator = ALEInterface()
            emulator.loadROM(cast(Path, roms.get_rom_path(self._game)))
            height, width = emulator.getScreenDims()
            self._screen = self._opened(1, 1, height, width, grayscale=False)
            self._shown = self._screen.reset(seed=self._first_seed)[0]
        newest: NDArray[np.uint8] = self._shown[0, -1]
        return newest.copy()

    def close(self) -> None:
        """Close the emulators."""
        self._emulators.close()
        if self._screen is not None:
            self._screen.close()
