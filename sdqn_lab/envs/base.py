"""What every environment promises: its protocol settings, its step and its seeds.

All environments restart by themselves *at the next step*: the step that ends an episode returns
that episode's last observation, and the step after it ignores the action and returns the first
observation of the next episode, with reward 0 and `started` set.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple, runtime_checkable
from typing import Protocol as Interface

import numpy as np
from numpy.typing import NDArray

from sdqn_lab.checks.ranges import Count, Natural, Share, ShareBelowOne, check_arguments
from sdqn_lab.checks.refused import Refused

Actions = NDArray[np.integer[Any]] | NDArray[np.floating[Any]]
"""One action for each of N environments: numbers (N,), or, where they are continuous, (N, D)."""


@dataclass(frozen=True)
class ActionBox:
    """Continuous actions of D numbers, each within bounds of its own.

    Args:
        low: (D,) the least of each; -inf where there is none.
        high: (D,) the largest of each; inf where there is none.

    Raises:
        Refused: there are no bounds, or they leave nothing between them.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.low) != len(self.high) or not self.low:
            raise Refused("high", self.high, f"must be as many as there are in low={self.low}")
        if not all(low <= high for low, high in zip(self.low, self.high, strict=True)):
            raise Refused("high", self.high, f"must be at least low={self.low}")

    def __str__(self) -> str:
        pairs = zip(self.low, self.high, strict=True)
        return " x ".join(f"[{low:g}, {high:g}]" for low, high in pairs)

    @property
    def size(self) -> int:
        """D."""
        return len(self.low)

    def clip(self, actions: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """Actions (N, D) with each number at the nearest that is within its bounds."""
        clipped: NDArray[np.float32] = np.clip(actions, self.low, self.high).astype(np.float32)
        return clipped


ActionSpace = int | ActionBox
"""How many actions there are to choose from, or what continuous ones lie in."""


# Not frozen: it is the schema of a config's group too, and OmegaConf would let nobody write there.
@dataclass
class Protocol:
    """How a game is played and scored; training and evaluation share one instance.

    Raises:
        Refused: a setting lies outside the range of its annotation.
    """

    sticky_actions: ShareBelowOne
    """Probability that the emulator repeats the previous action; at 1 nothing is ever played."""
    noop_max: Natural
    """An episode starts with up to so many no-ops (raw frames); 0: none."""
    fire_reset: bool
    """Press FIRE once at the start of a game that needs it."""
    life_loss_ends_bootstrap: bool
    """A lost life has discount 0 in learning; the game itself goes on."""
    reward_clipping: bool
    """Learning sees the sign of the reward; scores are never clipped."""
    episode_cap_frames: Count
    """Episodes are truncated after so many emulator frames."""
    full_action_space: bool
    """All actions of the console instead of the game's minimal set."""
    difficulty_ramping: bool
    """MinAtar: the game gets harder while it is played."""
    epsilon_eval: Share
    """Exploration in evaluation."""
    eval_episodes: Count
    """Episodes per evaluation, each in an environment of its own."""

    def __post_init__(self) -> None:
        check_arguments(Protocol.__init__, vars(self))

    def require(self, environment: str, remedy: str, **honoured: object) -> None:
        """Refuse a setting that an environment cannot honour.

        Args:
            environment: how the message names the environment.
            remedy: the protocol to write instead.
            **honoured: the only value of each named setting that the environment can honour.

        Raises:
            Refused: a setting differs from the value that the environment can honour.
        """
        for name, needed in honoured.items():
            value = getattr(self, name)
            if value != needed:
                rule = f"must be {needed} for {environment}"
                raise Refused(f"protocol.{name}", value, rule, f"protocol={remedy}")


class Step(NamedTuple):
    """What N environments return for N actions; every array is fresh and its first axis is N.

    Attributes:
        observations: (N, *observation_shape); at an episode's end its last observation.
        rewards: (N,) float32, as the game gives them, never clipped.
        terminated: (N,) bool, the game is over.
        truncated: (N,) bool, the episode was cut although the game could go on.
        life_lost: (N,) bool, a life was lost and the game goes on.
        started: (N,) bool, the row is the first observation of an episode, not a transition.
    """

    observations: NDArray[Any]
    rewards: NDArray[np.float32]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    life_lost: NDArray[np.bool_]
    started: NDArray[np.bool_]


class VectorEnv(Interface):
    """N environments that step together.

    Attributes:
        num_envs: N.
        observation_shape: shape of one observation, (C, H, W) or (F,).
        observation_dtype: uint8 for images, float32 for vectors.
        stack: consecutive frames along an observation's axis 0, oldest first; frames from before
            the episode are zeros.
        num_actions: actions are integers in [0, num_actions); where they are continuous, how many
            numbers D make one.
        frames_per_step: emulator frames of one agent step.

    An environment with continuous actions also has an `action_box`, the `ActionBox` of what has an
    effect: numbers beyond a bound are played as the bound.
    """

    num_envs: int
    observation_shape: tuple[int, ...]
    observation_dtype: np.dtype[Any]
    stack: int
    num_actions: int
    frames_per_step: int

    def reset(self, seed: int) -> NDArray[Any]:
        """Start all environments anew; all that follows is a function of seed and actions.

        Args:
            seed: any integer in [0, 2**31).

        Returns:
            First observations, (N, *observation_shape).
        """
        ...

    def step(self, actions: Actions) -> Step:
        """Play one action, (N,) or (N, D), in each environment; needs a `reset` before."""
        ...

    def close(self) -> None:
        """Give threads and windows back."""
        ...


@runtime_checkable
class Watchable(VectorEnv, Interface):
    """A vector environment whose game 0 a person can watch.

    Attributes:
        action_names: what each of the actions does, in a word or two; of continuous ones each of
            their numbers.
        decisions_per_second: agent steps per second at the speed that is natural for the game.
    """

    action_names: tuple[str, ...]
    decisions_per_second: float

    def picture(self) -> NDArray[np.uint8]:
        """Return game 0 as a person sees it now, RGB (H, W, 3).

        The first call belongs between a `reset` and the first `step`: some games are drawn by a
        second copy that plays along, which begins there. Play is the same with pictures and
        without.

        Raises:
            ValueError: nothing can draw this game, or the first call comes too late.
        """
        ...


PICTURE_TOO_LATE = "picture must be asked for first between a reset and the first step"
"""For games that are drawn by a second copy, which cannot catch up."""


class EnvironmentFailed(RuntimeError):  # noqa: N818  (reads as what happened)
    """An environment raised while it was played, or returned what no network can take.

    Args:
        name: the environment's id.
        fault: what it did, or what it raised.
    """

    def __init__(self, name: str, fault: str | Exception) -> None:
        raised = f"raised {type(fault).__name__}: {fault}"
        super().__init__(f"the environment {name} {fault if isinstance(fault, str) else raised}")


def environment_seeds(seed: int, num_envs: int) -> list[int]:
    """Spread one seed over N environments, so that no two runs share an environment's stream.

    Args:
        seed: any integer in [0, 2**31).
        num_envs: N >= 1.

    Returns:
        N integers in [0, 2**31).

    Raises:
        Refused: the seed lies outside its range.
    """
    if not 0 <= seed < 2**31:
        raise Refused("seed", seed, "must lie in [0, 2**31)", "0")
    # Not seed + i: run 1 would then play the games of run 0, moved by one.
    return [int(word) >> 1 for word in np.random.SeedSequence(seed).generate_state(num_envs)]


def check_actions(actions: Actions, num_envs: int, num_actions: int) -> None:
    """Refuse, with a `Refused`, actions that are not N integers in [0, num_actions)."""
    if actions.shape != (num_envs,):
        raise Refused("actions", actions.shape, f"must have shape ({num_envs},)")
    numbers = actions.tolist()  # for so few, Python's own comparison is the quicker one
    if min(numbers) < 0 or max(numbers) >= num_actions:
        raise Refused("actions", numbers, f"must lie in [0, {num_actions})")


def check_box_actions(actions: Actions, num_envs: int, box: ActionBox) -> None:
    """Refuse, with a `Refused`, actions that are not N times D finite numbers."""
    if actions.shape != (num_envs, box.size):
        raise Refused("actions", actions.shape, f"must have shape ({num_envs}, {box.size})")
    # Clipping would let NaN pass; it is what a network answers that has diverged.
    if not np.isfinite(actions).all():
        raise Refused(
            "actions",
            actions.tolist(),
            "must be finite numbers; a policy that diverged gives others",
        )


def action_space(env: VectorEnv) -> ActionSpace:
    """What the actions of an environment are."""
    box: ActionBox | None = getattr(env, "action_box", None)
    return box or env.num_actions


def random_actions(space: ActionSpace, count: int, rng: np.random.Generator) -> Actions:
    """Actions drawn uniformly; of a number without a bound, from the standard normal distribution.

    Args:
        space: what actions are.
        count: N.
        rng: source of the draws.

    Returns:
        (N,) int64, or (N, D) float32.
    """
    if isinstance(space, int):
        return rng.integers(space, size=count)
    bounded = np.isfinite(space.low) & np.isfinite(space.high)
    low, high = np.where(bounded, space.low, 0.0), np.where(bounded, space.high, 0.0)
    size = count, space.size
    return space.clip(np.where(bounded, rng.uniform(low, high, size), rng.standard_normal(size)))
