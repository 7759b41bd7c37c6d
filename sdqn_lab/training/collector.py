"""Acting: environments, the agent's actions in them, and the rows that enter replay."""

from typing import Any, NamedTuple

import numpy as np

from sdqn_lab.agents.dqn import DQN
from sdqn_lab.agents.replay import Replay
from sdqn_lab.envs.base import Step, VectorEnv


class Episode(NamedTuple):
    """A finished episode: its unclipped return and its length in agent steps."""

    score: float
    length_steps: int


class Collector:
    """Steps N environments together and writes what they show into replay.

    The emulator cannot save its state, but it is deterministic: the state of the environments is
    the seed of their last start and the actions since. ``load_state_dict`` plays them again.
    """

    def __init__(
        self,
        env: VectorEnv,
        agent: DQN,
        replay: Replay,
        rng: np.random.Generator,
        *,
        reward_clipping: bool,
        life_loss_ends_bootstrap: bool,
    ) -> None:
        self.running = False
        self._env, self._agent, self._replay, self._rng = env, agent, replay, rng
        self._reward_clipping = reward_clipping
        self._life_loss_ends_bootstrap = life_loss_ends_bootstrap
        self._channels = env.observation_shape[0] // env.stack

    def start(self, seed: int) -> None:
        """Start all environments anew; what follows depends on this seed and the actions alone."""
        self._seed = seed
        self._actions: list[np.ndarray] = []
        self._observations = self._env.reset(seed)
        self._returns = np.zeros(self._env.num_envs)
        self._lengths = np.zeros(self._env.num_envs, np.int64)
        self.running = True

    def step(self, epsilon: float) -> tuple[int, list[Episode]]:
        """Act once in every environment.

        Returns:
            The number of agent steps taken (environments that only start a new episode take none),
            and the episodes that ended.
        """
        actions = self._agent.act(self._observations, epsilon, self._rng)
        return self._advance(actions, self._env.step(actions))

    def close(self) -> None:
        """End the iteration: running episodes count as truncated and leave no return behind."""
        self._replay.close(self._newest())
        self.running = False

    def _advance(self, actions: np.ndarray, step: Step) -> tuple[int, list[Episode]]:
        valid = ~step.started
        terminal = step.terminated.copy()
        if self._life_loss_ends_bootstrap:
            terminal |= step.life_lost
        self._replay.append(
            self._newest(),
            actions,
            np.sign(step.rewards) if self._reward_clipping else step.rewards,
            terminal=terminal,
            valid=valid,
        )
        self._actions.append(actions.astype(np.uint8))
        episodes = self._score(step, valid)
        self._observations = step.observations
        return int(valid.sum()), episodes

    def _score(self, step: Step, valid: np.ndarray) -> list[Episode]:
        self._returns += step.rewards
        self._lengths += valid
        ended = np.flatnonzero(step.terminated | step.truncated)
        episodes = [Episode(float(self._returns[i]), int(self._lengths[i])) for i in ended]
        self._returns[ended] = 0.0
        self._lengths[ended] = 0
        return episodes

    def _newest(self) -> np.ndarray:
        return self._observations[:, -self._channels :]

    def state_dict(self) -> dict[str, Any]:
        """Random stream, and where the environments stand (while an iteration runs)."""
        state: dict[str, Any] = {"rng": self._rng.bit_generator.state, "running": self.running}
        if self.running:
            played = np.array(self._actions, np.uint8).reshape(-1, self._env.num_envs)
            state |= {"seed": self._seed, "actions": played, "observations": self._observations}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Play the logged actions through fresh environments, without touching replay.

        Raises:
            RuntimeError: the environments arrive elsewhere than they were.
        """
        self._rng.bit_generator.state = state["rng"]
        if not state["running"]:
            return
        self.start(state["seed"])
        for actions in state["actions"]:
            step = self._env.step(actions.astype(np.int64))
            self._score(step, ~step.started)
            self._observations = step.observations
        self._actions = list(state["actions"])
        if not np.array_equal(self._observations, state["observations"]):
            raise RuntimeError(
                "the environment does not repeat itself under the same seed and actions, "
                "so this run cannot be resumed exactly"
            )
