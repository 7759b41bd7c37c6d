"""Tiny environments whose optimal values are known in closed form, to test learning with."""

from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray

from sdqn_lab.checks.ranges import Count, check_arguments
from sdqn_lab.envs.base import Protocol
from sdqn_lab.envs.classic import require_plain
from sdqn_lab.envs.serial import Serial


class Identity(Serial):
    """N games of naming the state one sees: reward 1 where `action == state`, otherwise 0.

    States are drawn uniformly at every step. Episodes are truncated, never terminated, so that
    with bootstrapping the optimum is

        Q*(s, a) = [a == s] + gamma / (1 - gamma)

    Observations are one-hot float32 (num_states,), or, with `image`, uint8
    (1, num_states, num_states) with column s set to 1.
    """

    def __init__(
        self,
        num_states: Count,
        num_envs: int,
        protocol: Protocol,
        *,
        episode_steps: Count = 16,
        image: bool = False,
    ) -> None:
        check_arguments(Identity.__init__, locals())
        require_plain(protocol, "toy environments")
        cap = min(episode_steps, protocol.episode_cap_frames)
        super().__init__("Identity", lambda: _Identity(num_states, image), num_envs, cap)


class Chain(Serial):
    """N walks along a chain: action 1 goes right, action 0 goes left, reward 1 at the right end.

    A game starts in state 0 and is over in state `length - 1`. The optimum is

        Q*(s, right) = gamma**(length - 2 - s),   Q*(s, left) = gamma * Q*(max(s - 1, 0), right)

    Observations are one-hot float32 (length,).
    """

    def __init__(self, length: Count, num_envs: int, protocol: Protocol) -> None:
        check_arguments(Chain.__init__, locals())
        require_plain(protocol, "toy environments")
        super().__init__("Chain", lambda: _Chain(length), num_envs, protocol.episode_cap_frames)


class _Toy(gymnasium.Env):
    """A state of S, shown as a one-hot vector or as a lit column."""

    def __init__(self, num_states: int, num_actions: int, image: bool = False) -> None:
        self.shown: NDArray[Any] = np.eye(num_states, dtype=np.uint8 if image else np.float32)
        if image:
            self.shown = np.tile(self.shown[:, None, None], (1, 1, num_states, 1))
        self.observation_space = Box(0, 1, self.shown.shape[1:], self.shown.dtype.type)
        self.action_space = Discrete(num_actions)

    def render(self):
        bright = (255 * np.atleast_2d(self.shown[self.state].squeeze())).astype(np.uint8)
        return np.repeat(bright[..., None], 3, axis=-1)


class _Identity(_Toy):
    def __init__(self, num_states: int, image: bool) -> None:
        super().__init__(num_states, num_states, image)

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            self.rng = np.random.Generator(np.random.PCG64(seed))
        self.state = int(self.rng.integers(len(self.shown)))
        return self.shown[self.state], {}

    def step(self, action):
        reward = float(action == self.state)
        return self.reset()[0], reward, False, False, {}


class _Chain(_Toy):
    def __init__(self, length: int) -> None:
        super().__init__(length, 2)

    def reset(self, *, seed=None, options=None):
        self.state = 0
        return self.shown[0], {}

    def step(self, action):
        self.state = self.state + 1 if action else max(self.state - 1, 0)
        over = self.state == len(self.shown) - 1
        return self.shown[self.state], float(over), over, False, {}


class Echo(gymnasium.Env):
    """Say the number that one sees: D numbers in [-1, 1], drawn anew at each step.

    The reward is -|action - seen|^2, so the best action is what is seen and the best return 0. An
    action of zeros earns -D / 3 in the mean.
    """

    metadata: ClassVar = {"render_modes": ["rgb_array"], "render_fps": 8}
    size = 2

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.observation_space = Box(-1, 1, (self.size,), np.float32)
        self.action_space = Box(-2, 2, (self.size,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seen = self.np_random.uniform(-1, 1, self.size).astype(np.float32)
        return self.seen, {}

    def step(self, action):
        reward = -float(np.square(action - self.seen).sum())
        return self.reset()[0], reward, False, False, {}

    def render(self):
        return np.full((32, 32, 3), 127 * (1 + self.seen[0]), np.uint8)


gymnasium.register("Echo-v0", "tests.toy_envs:Echo", max_episode_steps=16)
