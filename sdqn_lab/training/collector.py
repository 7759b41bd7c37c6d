"""Environments in training: what they show as rows for learning, episodes' scores, exact resume."""

from typing import Any, NamedTuple

import numpy as np

from sdqn_lab.agents.base import Row
from sdqn_lab.envs.base import Step, VectorEnv
from sdqn_lab.envs.normalization import Moments, Normalizer, RewardScaler, normalizer_of


class Episode(NamedTuple):
    """A finished episode: its unclipped return and its length in agent steps."""

    score: float
    length_steps: int


class Collector:
    """Steps N environments together.

    The emulator cannot save its state, but it is deterministic: the state of the environments is
    the seed of their last start and the actions since. `load_state_dict` plays them again. Running
    statistics of observations and rewards are kept as they were at that start, and made anew.

    Args:
        env: the environments.
        reward_clipping: learning sees the sign of the reward.
        life_loss_ends_bootstrap: learning takes a lost life for the end of the return.
        return_discount: discount of the returns by whose deviation learning sees rewards divided;
            None: it sees them as they are.

    Attributes:
        observations: (N, ...) what the environments show now; from `start` on.
        running: whether an iteration is running; set to False, its episodes leave no return.
        normalizer: of the observations; None: they are shown as they are.
    """

    def __init__(
        self,
        env: VectorEnv,
        *,
        reward_clipping: bool,
        life_loss_ends_bootstrap: bool,
        return_discount: float | None = None,
    ) -> None:
        self.running = False
        self._env = env
        self._reward_clipping = reward_clipping
        self._life_loss_ends_bootstrap = life_loss_ends_bootstrap
        self.normalizer: Normalizer | None = normalizer_of(env)
        self._scaler = (
            None if return_discount is None else RewardScaler(env.num_envs, return_discount)
        )

    def start(self, seed: int) -> None:
        """Start all environments anew; what follows depends on this seed and the actions alone."""
        self._seed, self._at_start = seed, self._statistics()
        self._actions: list[np.ndarray] = []
        if self._scaler is not None:
            self._scaler.start()
        self.observations = self._env.reset(seed)
        self._returns = np.zeros(self._env.num_envs)
        self._lengths = np.zeros(self._env.num_envs, np.int64)
        self.running = True

    def step(self, actions: np.ndarray) -> tuple[Row, list[Episode]]:
        """Carry out actions, (N,) or (N, D).

        Returns:
            The row that learning sees, and the episodes that ended with it.
        """
        seen, step = self.observations, self._env.step(actions)
        valid = ~step.started
        terminal = step.terminated
        if self._life_loss_ends_bootstrap:
            # A new array: `|=` on the step's own would end the episode's score with a lost life.
            terminal = terminal | step.life_lost
        rewards = self._learned_rewards(step)
        # A byte each: no environment with more than 256 actions gets this far. Continuous ones are
        # kept to the last digit.
        whole = np.issubdtype(actions.dtype, np.integer)
        self._actions.append(actions.astype(np.uint8) if whole else actions)
        episodes = self._score(step, valid)
        self.observations = step.observations
        return Row(seen, actions, rewards, terminal, valid), episodes

    def _learned_rewards(self, step: Step) -> np.ndarray:
        if self._scaler is not None:
            return self._scaler(step)
        return np.sign(step.rewards) if self._reward_clipping else step.rewards

    def _score(self, step: Step, valid: np.ndarray) -> list[Episode]:
        self._returns += step.rewards
        self._lengths += valid
        over = step.terminated | step.truncated
        if not np.count_nonzero(over):
            return []
        ended = np.flatnonzero(over)
        episodes = [Episode(float(self._returns[i]), int(self._lengths[i])) for i in ended]
        self._returns[ended] = 0.0
        self._lengths[ended] = 0
        return episodes

    def state_dict(self) -> dict[str, Any]:
        """Where the environments stand, while an iteration runs."""
        if not self.running:
            return {"running": False, "statistics": self._statistics()}
        none_yet = np.zeros((0, self._env.num_envs), np.uint8)
        played = np.stack(self._actions) if self._actions else none_yet
        return {
            "running": True,
            "statistics": self._at_start,
            "seed": self._seed,
            "actions": played,
            "observations": self.observations,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Play the logged actions through fresh environments.

        Raises:
            RuntimeError: the environments arrive elsewhere than they were.
        """
        # Earlier versions kept none.
        for name, statistics in state.get("statistics", {}).items():
            self._moments()[name].load_state_dict(statistics)
        if not state["running"]:
            return
        self.start(state["seed"])
        for actions in state["actions"]:
            whole = actions.dtype == np.uint8
            step = self._env.step(actions.astype(np.int64) if whole else actions)
            self._learned_rewards(step)
            # Sums of running episodes are in no checkpoint: they are added up again, in the same
            # order and therefore to the same floats.
            self._score(step, ~step.started)
            self.observations = step.observations
        self._actions = list(state["actions"])
        # A difference ends the run, because its numbers would no longer be those of one run.
        if not np.array_equal(self.observations, state["observations"]):
            raise RuntimeError(
                "the environment does not repeat itself under the same seed and actions, "
                "so this run cannot be resumed exactly"
            )

    def _moments(self) -> dict[str, Moments]:
        own = {"observations": self.normalizer, "rewards": self._scaler}
        return {name: each.moments for name, each in own.items() if each is not None}

    def _statistics(self) -> dict[str, Any]:
        return {name: moments.state_dict() for name, moments in self._moments().items()}
