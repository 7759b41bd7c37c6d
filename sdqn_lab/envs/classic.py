"""Any Gymnasium environment with vector or image observations and one kind of action."""

import warnings
from importlib.util import find_spec
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray

from sdqn_lab.checks.refused import Refused, one_line
from sdqn_lab.envs.base import PICTURE_TOO_LATE, Actions, EnvironmentFailed, Protocol, Step
from sdqn_lab.envs.serial import Serial

IMAGE_TYPES = (np.uint8, np.bool_)
gymnasium.register("Bandit-v0", "sdqn_lab.envs.tasks:Bandit")
gymnasium.register("Gridworld-v0", "sdqn_lab.envs.tasks:Gridworld", max_episode_steps=50)


class Classic(Serial):
    """N copies of one Gymnasium environment.

    Vectors are handed over as float32 (F,); images, that is uint8 boxes (H, W) or (H, W, C), as
    uint8 (C, H, W). An image whose first axis is shorter than its last is taken as (C, H, W)
    already. Actions are discrete, or a box of floats, (D,) whatever its shape; numbers beyond its
    bounds are played as the bounds. The environment's own time limit and
    `protocol.episode_cap_frames` both truncate, whichever comes first.

    Args:
        id: a registered id such as `CartPole-v1`, or `module:Id-v0`, which imports the module
            that registers it.
        num_envs: N.
        protocol: the rules of play; sticky actions, no-ops, fire reset, lives, action sets and
            ramping belong to other environments and must be off.

    Raises:
        Refused: the environment cannot be made or started, its spaces do not fit, `num_envs` < 1,
            or the protocol asks for what Gymnasium does not have.

    Source: Brockman et al. 2016; Towers et al. 2024.
    """

    def __init__(self, id: str, num_envs: int, protocol: Protocol) -> None:
        require_plain(protocol, "Gymnasium environments")
        super().__init__(
            id,
            lambda: _Game(id),
            num_envs,
            protocol.episode_cap_frames,
        )
        try:  # what it returns is not looked at before it is started
            self.reset(0)
        except EnvironmentFailed as error:
            raise Refused("id", id, f"cannot be started: {error}", "CartPole-v1") from error

    def reset(self, seed: int) -> NDArray[Any]:
        """Start all games anew from a seed in [0, 2**31); see `VectorEnv`."""
        observations = super().reset(seed)
        self._check_finite("observation", observations)
        return observations

    def step(self, actions: Actions) -> Step:
        """Play one action in each game; see `Serial.step`.

        Raises:
            EnvironmentFailed: also where a reward or an observation is not finite.
        """
        step = super().step(actions)
        self._check_finite("observation", step.observations)
        self._check_finite("reward", step.rewards)
        return step

    def _check_finite(self, what: str, values: NDArray[Any]) -> None:
        if not np.isfinite(values).all():
            raise EnvironmentFailed(self.name, f"returned {what} {values.tolist()}: not finite")


def require_plain(protocol: Protocol, environment: str) -> None:
    """Refuse, with a `Refused`, each setting that only Atari or MinAtar can honour."""
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


class _Game(gymnasium.Wrapper[NDArray[Any], Any, Any, Any]):
    """A Gymnasium environment; its picture is what it observes, or what it draws by itself.

    Drawing is asked for when an environment is made and may cost time at each step, so a second
    environment that plays along does it.
    """

    def __init__(self, id: str) -> None:
        try:
            # Without the checker, which only warns: shapes and numbers are refused here.
            super().__init__(gymnasium.make(id, disable_env_checker=True))
        except (gymnasium.error.Error, ImportError) as error:
            if "mujoco" in str(error).lower() and find_spec("mujoco") is None:
                rule = f"{id} needs the package mujoco, which is not installed here"
                raise Refused("id", None, rule, "pip install 'sdqn_lab[mujoco]'") from error
            rule = f"must be an environment that Gymnasium can make ({one_line(error)})"
            instead = "env.id=CartPole-v1, or env.id=module:Id-v0 for one of your own"
            raise Refused("id", id, rule, instead) from error
        self._id = id
        self._screen: Any = None
        self._fresh_seed: int | None = None
        seen, actions = self.env.observation_space, self.env.action_space
        shape = seen.shape if isinstance(seen, Box) else ()
        self.is_image = len(shape) > 1
        if len(shape) not in (1, 2, 3) or (self.is_image and seen.dtype not in IMAGE_TYPES):
            rule = (
                "must observe a Box of shape (F,), or an image Box of uint8 with shape (H, W) or "
                f"(H, W, C), and observes {_described(seen)}"
            )
            wrapper = "env.id=ID of it under a wrapper (gymnasium.wrappers.FlattenObservation)"
            raise Refused("id", id, rule, wrapper)
        space: Any = actions
        numbers = isinstance(space, Box) and np.issubdtype(space.dtype, np.floating)
        if not isinstance(space, Discrete) and not (numbers and space.low.size):
            rule = f"must have Discrete actions or a Box of floats, and has {_described(actions)}"
            wrapper = "env.id=ID of it under a wrapper that makes its actions one of the two"
            raise Refused("id", id, rule, wrapper)
        self._shape, self._channels_last = shape, len(shape) == 3 and shape[-1] <= shape[0]
        low, high, dtype = (0, 255, np.uint8) if self.is_image else (-np.inf, np.inf, np.float32)
        self.observation_space = Box(low, high, self._arranged(np.empty(shape)).shape, dtype)
        # What its actions are called here: a space may begin anywhere, a box have any shape.
        self._taken = space
        self.action_space = (
            Discrete(int(space.n))
            if isinstance(space, Discrete)
            else Box(space.low.ravel(), space.high.ravel(), dtype=space.dtype)
        )
        if names := getattr(self.env.unwrapped, "action_names", None):
            self.action_names = tuple(map(str, names))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[Any], dict[str, Any]]:
        self._fresh_seed = seed
        observation, info = self.env.reset(seed=seed)
        if self._screen is not None:
            self._screen.reset(seed=seed)
        self._observed = self._arranged(observation)
        return self._observed, info

    def step(self, action: Any) -> tuple[NDArray[Any], float, bool, bool, dict[str, Any]]:
        if isinstance(self._taken, Discrete):
            action = action + int(self._taken.start)
        else:  # in the space's own type, because a bound may not be a number of another one
            low, high, dtype = self._taken.low, self._taken.high, self._taken.dtype
            action = np.clip(np.asarray(action, dtype).reshape(low.shape), low, high)
        # From here on a copy could no longer catch up.
        self._fresh_seed = None
        observation, reward, terminated, truncated, info = self.env.step(action)
        if self._screen is not None:
            self._screen.step(action)
        self._observed = self._arranged(observation)
        return self._observed, float(reward), terminated, truncated, info

    def render(self) -> Any:
        if not self.is_image:
            if self._screen is None:
                self._screen = self._drawing_copy()
            return self._screen.render()
        planes = self._observed
        if len(planes) not in (1, 3):
            rule = f"must observe 1 or 3 colours to be shown, and observes {len(planes)}"
            raise Refused("env.id", self._id, rule, "another env.id")
        scale = 255 if planes.dtype == np.bool_ else 1
        rgb = np.repeat(planes, 3, axis=0) if len(planes) == 1 else planes
        return (rgb * scale).astype(np.uint8).transpose(1, 2, 0)

    def close(self) -> None:
        self.env.close()
        if self._screen is not None:
            self._screen.close()

    def _arranged(self, observation: NDArray[Any]) -> NDArray[Any]:
        observation = np.asarray(observation)
        # NumPy would stretch an observation of shape (1,) over a row of (4,) in silence.
        if observation.shape != self._shape:
            raise ValueError(
                f"an observation of shape {observation.shape}, announced {self._shape}"
            )
        if observation.ndim == 2:
            return observation[np.newaxis]
        return observation.transpose(2, 0, 1) if self._channels_last else observation

    def _drawing_copy(self) -> Any:
        """A second environment, at the start of the same episode."""
        if self._fresh_seed is None:
            raise ValueError(PICTURE_TOO_LATE)
        try:
            # MuJoCo warns four times of a display that it does not find before it fails.
            with warnings.catch_warnings(action="ignore"):
                screen: Any = gymnasium.make(
                    self._id, disable_env_checker=True, render_mode="rgb_array"
                )
                screen.reset(seed=self._fresh_seed)
                shape = np.shape(screen.render())
        except Exception as error:  # whatever may be missing for drawing
            rule = f"must be an environment that draws itself ({one_line(error)})"
            instead = (
                "env.id=ANOTHER; Gymnasium's own need: pip install pygame; those of MuJoCo, on "
                "a machine without display, MUJOCO_GL=egl in front of the command"
            )
            raise Refused("env.id", self._id, rule, instead) from error
        if len(shape) != 3 or shape[-1] != 3:
            rule = f"must draw pictures (H, W, 3), and draws {shape}"
            raise Refused("env.id", self._id, rule, "another env.id")
        return screen


def _described(space: Any) -> str:
    return (
        f"Box{space.shape or ''} {space.dtype}" if isinstance(space, Box) else type(space).__name__
    )
