"""Tiny environments whose optimal values are known in closed form, to test learning with."""

from __future__ import annotations

import typing

import numpy as np
from numpy.typing import NDArray

from sdqn_lab.envs.base import Protocol, check_num_envs
from sdqn_lab.envs.classic import require_plain
from sdqn_lab.envs.serial import Serial


class Identity(Serial):
    """N games of naming the state one sees: reward 1 where ``action == state``, otherwise 0.

    States are drawn uniformly at every step. Episodes are truncated, never terminated, so that
    with bootstrapping the optimum is

        Q*(s, a) = [a == s] + gamma / (1 - gamma)

    Observations are one-hot float32 (num_states,), or, with ``image``, uint8
    (1, num_states, num_states) with column s set to 1.

    Args:
        num_states: States and actions, >= 2.
        num_envs: N >= 1.
        protocol: The rules of play; only the episode cap applies.
        episode_steps: Length of an episode, >= 1, unless the protocol's cap is shorter.
        image: Whether observations are images.

    Raises:
        ValueError: A number is out of range, or the protocol asks for what the game does not have.
    """

    def __init__(
        self,
        num_states: int,
        num_envs: int,
        protocol: Protocol,
        *,
        episode_steps: int = 16,
        image: bool = False,
    ) -> None:
        check_num_envs(num_envs)
        _check_least("num_states", num_states, 2)
        _check_least("episode_steps", episode_steps, 1)
        require_plain(protocol, "toy environments")
        super().__init__(
            [_Identity(num_states, image) for _ in range(num_envs)],
            observation_shape=(1, num_states, num_states) if image else (num_states,),
            observation_dtype=np.uint8 if image else np.float32,
            num_actions=num_states,
            episode_cap_frames=min(episode_steps, protocol.episode_cap_frames),
        )


class Chain(Serial):
    """N walks along a chain: action 1 goes right, action 0 goes left, reward 1 at the right end.

    A game starts in state 0 and is over in state ``length - 1``. The optimum is

        Q*(s, right) = gamma**(length - 2 - s),   Q*(s, left) = gamma * Q*(max(s - 1, 0), right)

    Observations are one-hot float32 (length,).

    Args:
        length: States of the chain, >= 2.
        num_envs: N >= 1.
        protocol: The rules of play; only the episode cap applies.

    Raises:
        ValueError: A number is out of range, or the protocol asks for what the game does not have.
    """

    def __init__(self, length: int, num_envs: int, protocol: Protocol) -> None:
        check_num_envs(num_envs)
        _check_least("length", length, 2)
        require_plain(protocol, "toy environments")
        super().__init__(
            [_Chain(length) for _ in range(num_envs)],
            observation_shape=(length,),
            observation_dtype=np.float32,
            num_actions=2,
            episode_cap_frames=protocol.episode_cap_frames,
        )


class _Identity:
    def __init__(self, num_states: int, image: bool) -> None:
        self._pictures: NDArray[typing.Any] = np.eye(num_states)
        if image:
            self._pictures = np.tile(self._pictures[:, None, None], (1, 1, num_states, 1))

    def seed(self, seed: int) -> None:
        self._rng = np.random.Generator(np.random.PCG64(seed))

    def start(self) -> NDArray[typing.Any]:
        self._state = int(self._rng.integers(len(self._pictures)))
        return self._picture()

    def play(self, action: int) -> tuple[NDArray[typing.Any], float, bool, bool]:
        reward = float(action == self._state)
        return self.start(), reward, False, False

    def picture(self) -> NDArray[np.uint8]:
        return _grey(self._picture())

    def close(self) -> None:
        """Nothing is held."""

    def _picture(self) -> NDArray[typing.Any]:
        picture: NDArray[typing.Any] = self._pictures[self._state]
        return picture


class _Chain:
    def __init__(self, length: int) -> None:
        self._pictures: NDArray[typing.Any] = np.eye(length)

    def seed(self, seed: int) -> None:
        """Nothing is random."""

    def start(self) -> NDArray[typing.Any]:
        self._state = 0
        return self._picture()

    def play(self, action: int) -> tuple[NDArray[typing.Any], float, bool, bool]:
        self._state = self._state + 1 if action else max(self._state - 1, 0)
        over = self._state == len(self._pictures) - 1
        return self._picture(), float(over), over, False

    def picture(self) -> NDArray[np.uint8]:
        return _grey(self._picture())

    def close(self) -> None:
        """Nothing is held."""

    def _picture(self) -> NDArray[typing.Any]:
        picture: NDArray[typing.Any] = self._pictures[self._state]
        return picture


def _grey(cells: NDArray[typing.Any]) -> NDArray[np.uint8]:
    """Cells of zeros and ones, (F,) or (1, H, W), as RGB (H, W, 3)."""
    bright = (255 * np.atleast_2d(cells.squeeze())).astype(np.uint8)
    return np.repeat(bright[..., None], 3, axis=-1)


def _check_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"{name} must be >= {least}, got {value}")
