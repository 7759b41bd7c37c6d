"""What every environment promises: its protocol settings, its step and its seeds.

All environments restart by themselves *at the next step*: the step that ends an episode returns
that episode's last observation, and the step after it ignores the action and returns the first
observation of the next episode, with reward 0 and ``started`` set.
"""

import typing
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Ge, Lt
from numpy.typing import NDArray

from sdqn_lab.checks.ranges import Count, Natural, Share


@dataclass
class Protocol:
    """The rules under which an environment is played; training and evaluation share one instance.

    Attributes:
        sticky_actions: Probability in [0, 1) that the emulator repeats the previous action.
        noop_max: Most no-op frames (>= 0) that open a game; each game draws its own number.
        fire_reset: Whether a game that has a FIRE action begins with one frame of it.
        life_loss_ends_bootstrap: Whether learning treats a lost life as an end of the return.
            The game itself goes on.
        reward_clipping: Whether learning sees the sign of the reward. Environments never clip.
        episode_cap_frames: Emulator frames (>= 1) after which an episode is truncated.
        full_action_space: Whether all actions of the console are offered, or only those that
            the game distinguishes.
        difficulty_ramping: Whether MinAtar's games grow harder while they are played.
        epsilon_eval: Probability in [0, 1] of a random action during evaluation.
        eval_episodes: Episodes (>= 1) of one evaluation.

    Raises:
        ValueError: A setting lies outside its range.
    """

    sticky_actions: Annotated[float, Ge(0), Lt(1)]
    noop_max: Natural
    fire_reset: bool
    life_loss_ends_bootstrap: bool
    reward_clipping: bool
    episode_cap_frames: Count
    full_action_space: bool
    difficulty_ramping: bool
    epsilon_eval: Share
    eval_episodes: Count

    def __post_init__(self) -> None:
        for key, least in (("noop_max", 0), ("episode_cap_frames", 1), ("eval_episodes", 1)):
            value = getattr(self, key)
            if value < least:
                raise ValueError(f"protocol.{key} must be >= {least}, got {value}")
        # Where every action is the one before, nothing is ever played.
        if not 0 <= self.sticky_actions < 1:
            raise ValueError(
                f"protocol.sticky_actions must lie in [0, 1), got {self.sticky_actions}"
            )
        if not 0 <= self.epsilon_eval <= 1:
            raise ValueError(f"protocol.epsilon_eval must lie in [0, 1], got {self.epsilon_eval}")

    def require(self, environment: str, remedy: str, **honoured: object) -> None:
        """Refuse a setting that an environment cannot honour.

        Args:
            environment: How the message names the environment.
            remedy: The protocol to write instead.
            **honoured: The only value of each named setting that the environment can honour.

        Raises:
            ValueError: A setting differs from the value that the environment can honour.
        """
        for key, value in honoured.items():
            if getattr(self, key) != value:
                raise ValueError(
                    f"protocol.{key} must be {value} for {environment}, got {getattr(self, key)}: "
                    f"write protocol={remedy}"
                )


class Step(typing.NamedTuple):
    """What N environments return for N actions; every array is fresh and its first axis is N.

    Attributes:
        observations: (N, *observation_shape); at an episode's end its last observation.
        rewards: (N,) float32, as the game gives them, never clipped.
        terminated: (N,) bool, the game is over.
        truncated: (N,) bool, the episode was cut although the game could go on.
        life_lost: (N,) bool, a life was lost and the game goes on.
        started: (N,) bool, the row is the first observation of an episode, not a transition.
    """

    observations: NDArray[typing.Any]
    rewards: NDArray[np.float32]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    life_lost: NDArray[np.bool_]
    started: NDArray[np.bool_]


class VectorEnv(typing.Protocol):
    """N environments that step together.

    Attributes:
        num_envs: N.
        observation_shape: Shape of one observation, (C, H, W) or (F,).
        observation_dtype: uint8 for images, float32 for vectors.
        stack: Consecutive frames along an observation's axis 0, oldest first; frames from before
            the episode are zeros.
        num_actions: Actions are integers in [0, num_actions).
        frames_per_step: Emulator frames of one agent step.
    """

    num_envs: int
    observation_shape: tuple[int, ...]
    observation_dtype: np.dtype[typing.Any]
    stack: int
    num_actions: int
    frames_per_step: int

    def reset(self, seed: int) -> NDArray[typing.Any]:
        """Start all environments anew; all that follows is a function of seed and actions.

        Args:
            seed: Any integer in [0, 2**31).

        Returns:
            First observations, (N, *observation_shape).
        """
        ...

    def step(self, actions: NDArray[np.integer[typing.Any]]) -> Step:
        """Play one action (N,) in each environment; needs a `reset` before."""
        ...

    def close(self) -> None:
        """Give threads and windows back."""
        ...


@typing.runtime_checkable
class Watchable(VectorEnv, typing.Protocol):
    """A vector environment whose game 0 a person can watch.

    Attributes:
        action_names: What each of the actions does, in a word or two.
        decisions_per_second: Agent steps a second at the speed that is natural for the game.
    """

    action_names: tuple[str, ...]
    decisions_per_second: float

    def picture(self) -> NDArray[np.uint8]:
        """Return game 0 as a person sees it now, RGB (H, W, 3).

        The first call belongs between a `reset` and the first `step`: some games are drawn by a
        second copy that plays along, which begins there. Play is the same with pictures and
        without.

        Raises:
            ValueError: Nothing can draw this game, or the first call comes too late.
        """
        ...


LATE = "picture must be asked for first between a reset and the first step, got a later call"
"""What a game says that is drawn by a copy which cannot catch up."""


def environment_seeds(seed: int, num_envs: int) -> list[int]:
    """Spread one seed over N environments, so that no two runs share an environment's stream.

    Args:
        seed: Any integer in [0, 2**31).
        num_envs: N >= 1.

    Returns:
        N integers in [0, 2**31).

    Raises:
        ValueError: The seed lies outside its range.
    """
    if not 0 <= seed < 2**31:
        raise ValueError(f"seed must lie in [0, 2**31), got {seed}")
    return [int(word) >> 1 for word in np.random.SeedSequence(seed).generate_state(num_envs)]


def check_num_envs(num_envs: int) -> None:
    """Refuse less than one environment with a ValueError."""
    if num_envs < 1:
        raise ValueError(f"num_envs must be >= 1, got {num_envs}")


def check_actions(
    actions: NDArray[np.integer[typing.Any]], num_envs: int, num_actions: int
) -> None:
    """Refuse actions that are not N integers in [0, num_actions) with a ValueError."""
    if actions.shape != (num_envs,):
        raise ValueError(f"actions must have shape ({num_envs},), got {actions.shape}")
    if actions.min() < 0 or actions.max() >= num_actions:
        raise ValueError(f"actions must lie in [0, {num_actions}), got {actions.tolist()}")
