"""PopNorms with fixed statistics, and what that changes in play."""

from collections.abc import Iterator
from contextlib import closing
from copy import deepcopy
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from sdqn_lab.agents.seeding import stream
from sdqn_lab.analysis.statistics import Interval, interval, mean
from sdqn_lab.exporting.folding import FixedNorm
from sdqn_lab.networks.blocks import Block
from sdqn_lab.networks.network import SpikingNetwork
from sdqn_lab.spiking.norm import PopNorm
from sdqn_lab.training.evaluation import Moment, Start, evaluate
from sdqn_lab.watching.player import Player

BATCH = 256
"""Observations that a network sees at once."""


class Reservoir:
    """Exactly `size` rows of a stream of unknown length, each row with equal probability.

    Args:
        size: >= 1.
        rng: source of the draws.
    """

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        self._size, self._rng = size, rng
        self.seen = 0
        self.rows: list[npt.NDArray[Any]] = []

    def add(self, rows: npt.NDArray[Any]) -> None:
        """Pass rows (N, ...) by."""
        for row in rows:
            self.seen += 1
            if len(self.rows) < self._size:
                self.rows.append(row.copy())
                continue
            # Row k stays with probability size / k, in the place of any of the others.
            place = int(self._rng.integers(self.seen))
            if place < self._size:
                self.rows[place] = row.copy()


def observed(player: Player, start: Start, count: int, copies: int) -> npt.NDArray[Any]:
    """Observations of play (count, ...), drawn from as many whole episodes as are needed.

    Args:
        player: plays as in an evaluation under its protocol.
        start: of the last evaluation; the episodes are those that would follow.
        count: N, >= 1.
        copies: episodes played together.
    """
    kept = Reservoir(count, stream(start.seed, "export/observations", start.index))
    following = start.index
    with closing(player.make_env(copies)) as env:
        while kept.seen < count:
            following += 1
            evaluate(
                player.evaluated(),
                env,
                Start(start.seed, following),
                time_window=player.cfg.time_window_eval,
                on_decision=lambda moment: kept.add(moment.observations),
            )
    return np.stack(kept.rows)


def calibrated(
    network: SpikingNetwork, observations: npt.NDArray[Any], time_window: int | None = None
) -> SpikingNetwork:
    """A copy of a network with every PopNorm's mean and variance fixed, layer by layer.

    Of a layer they are the mean and the biased variance of its currents over all observations,
    steps and units, the layers before it being fixed already. `FixedNorm` has the equation.

    Args:
        network: in evaluation mode.
        observations: (N, ...), N >= 1.
        time_window: T; None: the network's own.
    """
    # A copy also because compiled code does not see that a norm of its network is replaced.
    fixed = deepcopy(network)
    for block in fixed.torso.children():
        if isinstance(block, Block) and type(block.norm) is PopNorm:
            moments = _moments(fixed, block.norm, observations, time_window)
            block.norm = FixedNorm(block.norm, *moments)
    return fixed


@torch.no_grad()
def _moments(
    network: nn.Module, norm: nn.Module, observations: npt.NDArray[Any], time_window: int | None
) -> tuple[Tensor, Tensor]:
    """Mean and biased variance, 0-d, of all that reaches a norm; in float64."""
    sums = torch.zeros(3, dtype=torch.float64)

    def add(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].double()
        sums.add_(torch.stack([x.new_tensor(x.numel()), x.sum(), x.square().sum()]))

    generator = torch.Generator().manual_seed(0)
    handle = norm.register_forward_pre_hook(add)
    for batch in _batches(observations):
        network(torch.from_numpy(batch), time_window=time_window, generator=generator)
    handle.remove()
    count, total, squares = sums
    average = total / count
    return average, (squares / count - average.square()).clamp(min=0)


def _batches(observations: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    for first in range(0, len(observations), BATCH):
        yield observations[first : first + BATCH]


class Agreement:
    """How often two players would decide alike, exploration aside.

    Both are asked anew, with random streams of their own that begin alike, so that play is not
    touched and a random encoder draws the same for both.

    Args:
        players: two of one game.

    Attributes:
        same: equal decisions.
        decisions: all of them.
    """

    def __init__(self, *players: Player) -> None:
        self._players = [Player(each.cfg, each.network, each.actions) for each in players]
        self.same = self.decisions = 0

    def ask(self, observations: npt.NDArray[Any]) -> None:
        """Compare the actions of the largest value, for observations (N, ...)."""
        for batch in _batches(observations):
            first, second = (
                each.policy.values(each.policy.outputs(batch, each.cfg.time_window_eval)).argmax(1)
                for each in self._players
            )
            self.same += int((first == second).sum())
            self.decisions += len(batch)

    def __str__(self) -> str:
        return f"{self.same:,} of {self.decisions:,} ({self.same / self.decisions:.1%})"


class Played(NamedTuple):
    """How one network played.

    Attributes:
        score: mean return with its interval over episodes.
        length_steps: mean length of an episode, agent steps.
    """

    score: Interval
    length_steps: float


def played(player: Player, start: Start, copies: int, agreement: Agreement | None = None) -> Played:
    """Play an episode in each of the environment's copies.

    Args:
        player: plays as in an evaluation under its protocol.
        start: where the random streams begin.
        copies: episodes.
        agreement: is asked at each decision.
    """

    def see(moment: Moment) -> None:
        if agreement is not None:
            agreement.ask(moment.observations)

    window = player.cfg.time_window_eval
    with closing(player.make_env(copies)) as env:
        episodes = evaluate(player.evaluated(), env, start, time_window=window, on_decision=see)
    # Nothing asks it to stop.
    assert episodes is not None
    draws = stream(start.seed, "play/bootstrap")
    score = interval(mean, [np.array(episodes.returns)], draws)
    return Played(score, float(np.mean(episodes.lengths_steps)))
