"""Episodes of a trained network: their scores, and what was seen and decided on the way.

One episode in each copy of the environment, none preferred for being short, with the streams of
training's evaluation: under the run's own protocol, T and number of episodes the same episodes are
played again.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sdqn_lab.envs.base import VectorEnv
from sdqn_lab.player import Player
from sdqn_lab.spiking.stats import SpikeRecorder
from sdqn_lab.training.seeding import stream, stream_seed
from sdqn_lab.watching.activity import ActivityTap, LayerActivity

SAMPLE = 256
"""Most observations that are kept for measuring the network."""


class Decision(NamedTuple):
    """One decision of the first episode.

    Attributes:
        values: (A,) Q-values.
        action: what was done.
        explored: whether it was drawn at random instead of chosen.
        layers: what the neurons did; empty unless asked for.
        score: return before this decision's reward.
    """

    values: npt.NDArray[np.float32]
    action: int
    explored: bool
    layers: dict[str, LayerActivity]
    score: float


@dataclass(frozen=True)
class Episodes:
    """What was played with one network at one T.

    Attributes:
        time_window: T; 1 without time.
        returns: unclipped, one an episode.
        lengths_steps: agent steps of each episode.
        firing_rates: layer -> share of active (step, unit) pairs over all decisions.
        first: the decisions of the first episode, in order.
        observations: (at most 256, ...) spread over all decisions.
    """

    time_window: int
    returns: list[float]
    lengths_steps: list[int]
    firing_rates: dict[str, float]
    first: list[Decision]
    observations: npt.NDArray[Any]


@dataclass(frozen=True)
class Start:
    """Where the random streams of an evaluation begin.

    Attributes:
        seed: >= 0.
        index: running number of the evaluation.
    """

    seed: int
    index: int

    @property
    def env_seed(self) -> int:
        """Of the environment."""
        return stream_seed(self.seed, "evaluation/env", self.index)

    @property
    def encoder_seed(self) -> int:
        """Of a random encoder."""
        return stream_seed(self.seed, "evaluation/encoder", self.index)

    def exploration(self) -> np.random.Generator:
        """Source of random actions."""
        return stream(self.seed, "evaluation/explore", self.index)


def play(
    player: Player,
    env: VectorEnv,
    start: Start,
    *,
    time_window: int | None = None,
    tapped: bool = False,
    told: Callable[[int], None] = lambda over: None,
) -> Episodes:
    """Play one episode in each of the environment's copies.

    Args:
        player: acts epsilon-greedily, with the epsilon of its protocol's evaluation.
        env: as many copies as episodes are wanted.
        start: where the random streams begin.
        time_window: T; None: the player's own.
        tapped: whether the first episode's decisions hold what the neurons did.
        told: called after every step with the number of finished episodes.
    """
    rng = start.exploration()
    observations = env.reset(start.env_seed)
    player.generator.manual_seed(start.encoder_seed)
    returns, lengths = np.zeros(env.num_envs), np.zeros(env.num_envs, np.int64)
    playing = np.ones(env.num_envs, bool)
    first: list[Decision] = []
    sample = Sample(SAMPLE)
    tap = ActivityTap(player.network)
    with SpikeRecorder(player.network) as recorder, tap if tapped else nullcontext():
        while playing.any():
            told(int((~playing).sum()))
            seen = observations[playing]
            sample.add(seen)
            values, chosen, explored = _decide(player, seen, rng, time_window)
            if playing[0]:
                taken = int(chosen[0]), bool(explored[0])
                first.append(Decision(values[0], *taken, tap.layers(), float(returns[0])))
            actions = np.zeros(env.num_envs, np.int64)
            actions[playing] = chosen
            step = env.step(actions)
            returns[playing] += step.rewards[playing]
            lengths[playing] += 1
            playing &= ~(step.terminated | step.truncated)
            observations = step.observations
    rates = {name: stats.firing_rate for name, stats in recorder.layers().items()}
    window = (time_window or player.time_window) if player.network.temporal else 1
    return Episodes(window, returns.tolist(), lengths.tolist(), rates, first, sample.taken())


def _decide(
    player: Player, seen: npt.NDArray[Any], rng: np.random.Generator, time_window: int | None
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Values (N, A), actions (N,) and which of them are random; draws as `DQN.act` does."""
    explored = rng.random(len(seen)) < player.protocol.epsilon_eval
    drawn = rng.integers(player.num_actions, size=len(seen))
    with _encoder_kept(player) if explored.all() else nullcontext():
        values = player.q_values(seen, time_window)
    return values, np.where(explored, drawn, values.argmax(axis=1)), explored


@contextmanager
def _encoder_kept(player: Player) -> Iterator[None]:
    """Values that only a person wants to see: an evaluation would not have asked the network."""
    state = player.generator.get_state()
    yield
    player.generator.set_state(state)


class Sample:
    """Rows spread evenly over a stream of unknown length.

    Args:
        most: how many are kept at the end, >= 1.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._rows: list[npt.NDArray[Any]] = []
        self._stride, self._seen = 1, 0

    def add(self, rows: npt.NDArray[Any]) -> None:
        """Pass rows (N, ...) by; each that is due is kept."""
        for row in rows:
            if self._seen % self._stride == 0:
                self._rows.append(row.copy())  # a view would hold the whole batch
            self._seen += 1
            if len(self._rows) == 2 * self._most:
                self._rows = self._rows[::2]
                self._stride *= 2

    def taken(self) -> npt.NDArray[Any]:
        """What was kept, (at most `most`, ...)."""
        due = -(-len(self._rows) // self._most) or 1
        return np.stack(self._rows[::due])
