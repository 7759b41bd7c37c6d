"""Observations and rewards on the scale of what a run has seen so far."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium.wrappers.utils import RunningMeanStd
from numpy.typing import NDArray

from sdqn_lab.checks.ranges import Count, Positive, Share, check_arguments
from sdqn_lab.checks.refused import Refused
from sdqn_lab.envs.base import Actions, Step, VectorEnv

EPS = 1e-8
REWARD_CLIP = 10.0
STORED = {"observations.mean": "mean", "observations.var": "var"}
"""What a network's file keeps of a normalizer, by name, out of its state."""


class Moments:
    """Running mean and variance of a stream, every entry with equal weight; 0 and 1 at first.

    Args:
        shape: of an entry.

    Source: the sum of two samples' moments, in Gymnasium's `RunningMeanStd`.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        make: Any = RunningMeanStd
        self._seen = make(shape=shape)

    def update(self, entries: NDArray[Any]) -> None:
        """Let entries (B, *shape) count."""
        self._seen.update(entries.astype(np.float64))

    @property
    def mean(self) -> NDArray[np.float64]:
        """Of all entries, of their shape."""
        return np.asarray(self._seen.mean)

    @property
    def deviation(self) -> NDArray[np.float64]:
        """Square root of variance + 1e-8, of an entry's shape."""
        return np.asarray(np.sqrt(self._seen.var + EPS))

    def state_dict(self) -> dict[str, Any]:
        """Mean, variance, and the count that they are of."""
        seen = self._seen
        return {"mean": np.array(seen.mean), "var": np.array(seen.var), "count": float(seen.count)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state; one without a count is for use, and not to go on with.

        Raises:
            ValueError: it is of entries of another shape.
        """
        seen = self._seen
        if not np.shape(seen.mean) == np.shape(state["mean"]) == np.shape(state["var"]):
            raise ValueError("statistics of observations of another shape")
        seen.mean, seen.var = state["mean"], state["var"]
        seen.count = state.get("count", seen.count)


class Normalizer:
    """Each number of an observation in units of its running deviation from its running mean::

        y_i = clip((x_i - mean_i) / sqrt(var_i + 1e-8), -clip, clip)

    Mean and variance are those of all observations that count, 0 and 1 before the first.

    Args:
        observation_shape: (F,).
        clip: largest absolute value of y, > 0.

    Attributes:
        moments: mean and variance.

    Raises:
        Refused: the observation is no vector, or `clip` is not above 0.

    Source: Gymnasium's `NormalizeObservation`; clipping as in CleanRL (10) and PopSAN (3).
    """

    def __init__(self, observation_shape: tuple[int, ...], clip: Positive) -> None:
        check_arguments(Normalizer.__init__, locals())
        if len(observation_shape) != 1:
            rule = f"is for vectors (F,), and this environment shows images {observation_shape}"
            raise Refused("env.normalize_observations", True, rule, "false")
        self._clip, self._shape = clip, observation_shape
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self.moments = Moments(self._shape)

    def record(self) -> dict[str, Any]:
        """What others must know to normalize alike: mean and deviation (F,), and the clip."""
        moments = self.moments
        scale = {"observation_mean": moments.mean, "observation_deviation": moments.deviation}
        return {**scale, "observation_clip": self._clip}

    def __call__(self, observations: NDArray[Any]) -> NDArray[np.float32]:
        """Raw observations (B, F) to normalized ones."""
        y = (observations - self.moments.mean) / self.moments.deviation
        return np.clip(y, -self._clip, self._clip).astype(np.float32)


class Normalized:
    """A vector environment that shows normalized observations; rewards stay as they are.

    Args:
        env: one with vector observations.
        normalizer: its statistics.
        learning: whether what is shown counts in the statistics, before it is normalized.
    """

    def __init__(self, env: VectorEnv, normalizer: Normalizer, *, learning: bool) -> None:
        self._env: Any = env
        self.normalizer, self._learning = normalizer, learning
        self.num_envs, self.stack = env.num_envs, env.stack
        self.observation_shape, self.observation_dtype = env.observation_shape, np.dtype(np.float32)
        self.num_actions, self.frames_per_step = env.num_actions, env.frames_per_step
        # What not every environment has, and this one then neither: bounds of continuous actions,
        # and what makes it `Watchable`.
        for name in ("action_box", "action_names", "decisions_per_second"):
            if hasattr(env, name):
                setattr(self, name, getattr(env, name))

    def reset(self, seed: int) -> NDArray[np.float32]:
        """Start all environments anew; see `VectorEnv`. Statistics go on."""
        return self._shown(self._env.reset(seed))

    def step(self, actions: Actions) -> Step:
        """Play one action (N,) in each environment; see `VectorEnv`."""
        step: Step = self._env.step(actions)
        return step._replace(observations=self._shown(step.observations))

    def picture(self) -> NDArray[np.uint8]:
        """What a person sees of game 0; see `Watchable`."""
        picture: NDArray[np.uint8] = self._env.picture()
        return picture

    def close(self) -> None:
        """Close the environment."""
        self._env.close()

    def _shown(self, observations: NDArray[Any]) -> NDArray[np.float32]:
        if self._learning:
            self.normalizer.moments.update(observations)
        return self.normalizer(observations)


def normalizer_of(env: VectorEnv) -> Normalizer | None:
    """The statistics of an environment that normalizes."""
    return env.normalizer if isinstance(env, Normalized) else None


class RewardScaler:
    """Rewards of N environments in units of the running deviation of the discounted return::

        R_t = gamma R_(t-1) + r_t, from R = 0 at an episode's start
        y_t = clip(r_t / sqrt(var + 1e-8), -10, 10)

    var is the variance of all R so far, over environments and time, R_t among them. No mean is
    subtracted from a reward, which would change what is best to do.

    Args:
        num_envs: N.
        gamma: discount of one agent step.

    Attributes:
        moments: mean and variance of the returns.

    Raises:
        Refused: an argument is outside its range.

    Source: the reward scaling of OpenAI's baselines, as in Stable-Baselines3's `VecNormalize`.
    """

    def __init__(self, num_envs: Count, gamma: Share) -> None:
        check_arguments(RewardScaler.__init__, locals())
        self._gamma, self._returns = gamma, np.zeros(num_envs)
        self.moments = Moments(())

    def start(self) -> None:
        """All environments start anew; statistics go on."""
        self._returns[:] = 0.0

    def __call__(self, step: Step) -> NDArray[np.float32]:
        """Scaled rewards (N,) of a step, which counts in the statistics."""
        self._returns = self._gamma * self._returns + step.rewards
        # What only starts an episode is no transition, and has earned nothing.
        if (earned := self._returns[~step.started]).size:
            self.moments.update(earned)
        self._returns[step.terminated | step.truncated] = 0.0
        scaled = step.rewards / self.moments.deviation
        return np.clip(scaled, -REWARD_CLIP, REWARD_CLIP).astype(np.float32)
