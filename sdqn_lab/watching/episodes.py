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

from sdqn_lab.agents.policy import Policy
from sdqn_lab.envs.base import VectorEnv
from sdqn_lab.spiking.stats import SpikeRecorder
from sdqn_lab.training.evaluation import Moment, Start, evaluate
from sdqn_lab.watching.activity import ActivityTap, LayerActivity
from sdqn_lab.watching.player import Player

SAMPLE = 256
"""Most observations that are kept for measuring the network."""


class Decision(NamedTuple):
    """One decision of the first episode.

    Attributes:
        values: (A,) what the network answered, e.g. Q-values.
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


def play(
    player: Player,
    env: VectorEnv,
    start: Start,
    *,
    time_window: int | None = None,
    tapped: bool = False,
    reported: Callable[[int], None] = lambda over: None,
) -> Episodes:
    """Play one episode in each of the environment's copies.

    Args:
        player: acts epsilon-greedily, with the epsilon of its protocol's evaluation.
        env: as many copies as episodes are wanted.
        start: where the random streams begin.
        time_window: T; None: the player's own.
        tapped: whether the first episode's decisions hold what the neurons did.
        reported: called at every step with the number of finished episodes.
    """
    policy = player.evaluated()
    window = time_window or player.cfg.time_window_eval
    first: list[Decision] = []
    sample = Sample(SAMPLE)
    tap = ActivityTap(player.network)

    def see(moment: Moment) -> None:
        reported(int((~moment.running).sum()))
        sample.add(moment.observations)
        outputs = moment.choice.outputs
        if outputs is None:  # a person wants to see them; an evaluation did not ask the network
            with _generator_kept(policy):
                outputs = policy.outputs(moment.observations, window)
        if moment.running[0]:
            action, explored = int(moment.choice.actions[0]), bool(moment.choice.explored[0])
            values, score = outputs[0].numpy(), float(moment.returns[0])
            first.append(Decision(values, action, explored, tap.layers(), score))

    with SpikeRecorder(player.network) as recorder, tap if tapped else nullcontext():
        played = evaluate(policy, env, start, time_window=window, on_decision=see)
    assert played is not None  # nothing asks it to stop
    rates = {name: stats.firing_rate for name, stats in recorder.layers().items()}
    shown = (time_window or player.time_window) if player.network.temporal else 1
    return Episodes(shown, *played, rates, first, sample.taken())


@contextmanager
def _generator_kept(policy: Policy) -> Iterator[None]:
    """Let a random encoder's stream be as if the network had not been asked."""
    assert policy.generator is not None
    state = policy.generator.get_state()
    yield
    policy.generator.set_state(state)


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
