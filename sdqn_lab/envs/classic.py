"""Any Gymnasium environment with vector or image observations and discrete actions."""

from __future__ import annotations

import typing

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray

from sdqn_lab.envs.base import LATE, Protocol, check_num_envs
from sdqn_lab.envs.serial import Serial


class Classic(Serial):
    """N copies of one Gymnasium environment.

    Vectors are handed over as float32 (F,); images, that is uint8 boxes (H, W) or (H, W, C), as
    uint8 (C, H, W). An image whose first axis is shorter than its last is taken as (C, H, W)
    already. The environment's own time limit and ``protocol.episode_cap_frames`` both truncate,
    whichever comes first.

    Args:
        id: A registered id such as ``CartPole-v1``, or ``module:Id-v0``, which imports the module
            that registers it.
        num_envs: N >= 1.
        protocol: The rules of play; sticky actions, no-ops, fire reset, lives, action sets and
            ramping belong to other environments and must be off.

    Raises:
        ValueError: The environment cannot be made, its spaces do not fit, ``num_envs`` < 1, or the
            protocol asks for what Gymnasium does not have.

    Source: Brockman et al. 2016; Towers et al. 2024.
    """

    def __init__(self, id: str, num_envs: int, protocol: Protocol) -> None:
        check_num_envs(num_envs)
        require_plain(protocol, "Gymnasium environments")
        copies = [_Game(id) for _ in range(num_envs)]
        super().__init__(
            copies,
            observation_shape=copies[0].observation_shape,
            observation_dtype=np.uint8 if copies[0].is_image else np.float32,
            num_actions=copies[0].num_actions,
            episode_cap_frames=protocol.episode_cap_frames,
            decisions_per_second=copies[0].decisions_per_second,
        )


def require_plain(protocol: Protocol, environment: str) -> None:
    """Refuse, with a ValueError, each setting that only Atari or MinAtar can honour."""
    protocol.require(
        environment,
        "plain",
        sticky_actions=0,
        noop_max=0,
        fire_reset=False,
        life_loss_ends_bootstrap=False,
        full_action_space=False,
        difficulty_ramping=False,
    )


class _Game:
    """A Gymnasium environment; its picture is what it observes, or what it draws by itself.

    Drawing is asked for when an environment is made and may cost time at each step, so a second
    environment that plays along does it.
    """

    def __init__(self, id: str) -> None:
        self._id = id
        self._environment = _make(id)
        self._screen: typing.Any = None
        self.decisions_per_second = _speed(self._environment)
        observations = _checked_observations(id, self._environment.observation_space)
        actions = _checked_actions(id, self._environment.action_space)
        self.is_image = len(observations.shape) > 1
        self._channels_last = observations.shape[-1] <= observations.shape[0]
        self.observation_shape = self._arranged(np.empty(observations.shape)).shape
        self.num_actions = int(actions.n)
        self._first_action = int(actions.start)
        self._seed: int | None = None

    def seed(self, seed: int) -> None:
        self._seed = seed

    def start(self) -> NDArray[typing.Any]:
        self._fresh_seed, self._seed = self._seed, None
        self._observed, _ = self._environment.reset(seed=self._fresh_seed)
        if self._screen is not None:
            self._screen.reset(seed=self._fresh_seed)
        return self._arranged(self._observed)

    def play(self, action: int) -> tuple[NDArray[typing.Any], float, bool, bool]:
        self._fresh_seed = None
        self._observed, reward, terminated, truncated, _ = self._environment.step(
            action + self._first_action
        )
        if self._screen is not None:
            self._screen.step(action + self._first_action)
        return self._arranged(self._observed), float(reward), terminated, truncated

    def picture(self) -> NDArray[np.uint8]:
        if self.is_image:
            return _colored(self._id, self._arranged(self._observed))
        if self._screen is None:
            if self._fresh_seed is None:
                raise ValueError(LATE)
            self._screen = _screen(self._id, self._fresh_seed)
        picture: NDArray[np.uint8] = np.asarray(self._screen.render(), np.uint8)
        return picture

    def close(self) -> None:
        self._environment.close()
        if self._screen is not None:
            self._screen.close()

    def _arranged(self, observation: NDArray[typing.Any]) -> NDArray[typing.Any]:
        if observation.ndim == 1:
            return observation
        if observation.ndim == 2:
            return observation[np.newaxis]
        return observation.transpose(2, 0, 1) if self._channels_last else observation


def _speed(environment: typing.Any) -> float:
    """What the environment says of its speed, if it says so."""
    rate = (getattr(environment, "metadata", None) or {}).get("render_fps")
    return float(rate) if isinstance(rate, int | float) and rate > 0 else 10.0


def _colored(id: str, planes: NDArray[typing.Any]) -> NDArray[np.uint8]:
    """An observation (C, H, W) as RGB (H, W, 3)."""
    if len(planes) not in (1, 3):
        raise ValueError(
            f"env.id must observe 1 or 3 colours to be shown, got {id} with {len(planes)}: "
            "write another env.id"
        )
    scale = 255 if planes.dtype == np.bool_ else 1
    rgb = np.repeat(planes, 3, axis=0) if len(planes) == 1 else planes
    return (rgb * scale).astype(np.uint8).transpose(1, 2, 0)


def _screen(id: str, seed: int) -> typing.Any:
    """A copy that draws, at the start of the same episode."""
    try:
        screen = gymnasium.make(id, disable_env_checker=True, render_mode="rgb_array")
        screen.reset(seed=seed)
        picture: typing.Any = screen.render()
        shape = np.shape(picture)
    except Exception as error:  # whatever may be missing for drawing
        reason = " ".join(str(error).split())
        raise ValueError(
            f"env.id must be an environment that draws itself, got {id} ({reason}): "
            "write pip install pygame for Gymnasium's own, or another env.id"
        ) from error
    if len(shape) == 3 and shape[-1] == 3:
        return screen
    raise ValueError(
        f"env.id must draw pictures (H, W, 3), got {id} with {shape}: write another env.id"
    )


def _make(id: str) -> typing.Any:
    try:
        return gymnasium.make(id, disable_env_checker=True)
    except (gymnasium.error.Error, ImportError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"env.id must be an environment that Gymnasium can make, got {id} ({reason}): "
            f"write env.id=CartPole-v1, or env.id=module:Id-v0 for one of your own"
        ) from error


def _checked_observations(id: str, space: typing.Any) -> Box:
    wanted = "a Box of shape (F,), or an image Box of uint8 with shape (H, W) or (H, W, C)"
    if isinstance(space, Box) and _is_vector_or_image(space):
        return space
    raise ValueError(
        f"env.id must have {wanted} as observations, got {id} with {_named(space)}: "
        f"write a wrapper (gymnasium.wrappers.FlattenObservation) and register that"
    )


def _is_vector_or_image(space: Box) -> bool:
    if len(space.shape) == 1:
        return True
    return len(space.shape) in (2, 3) and space.dtype in (np.uint8, np.bool_)


def _checked_actions(id: str, space: typing.Any) -> Discrete:
    if isinstance(space, Discrete):
        return space
    raise ValueError(
        f"env.id must have Discrete actions, got {id} with {_named(space)}: "
        f"Q-learning chooses among finitely many, write another env.id"
    )


def _named(space: typing.Any) -> str:
    if isinstance(space, Box):
        return f"Box{space.shape or ''} {space.dtype}"
    return type(space).__name__
