"""Numbers of what was played: scores with their interval, firing rates, energy."""

from dataclasses import asdict, dataclass

import numpy as np
import torch

from sdqn_lab.agents.seeding import stream
from sdqn_lab.analysis.energy import cost
from sdqn_lab.analysis.statistics import Interval, interval, mean
from sdqn_lab.networks.probe import probe
from sdqn_lab.runs.directory import PROBE_VERSION
from sdqn_lab.watching.episodes import Episodes
from sdqn_lab.watching.player import Player

PROBED = 32
"""Observations that are measured at once: their membranes are all in memory."""


@dataclass(frozen=True)
class Measured:
    """What a table or a figure says of one T.

    Attributes:
        time_window: T; 1 without time.
        returns: one an episode, unclipped.
        lengths_steps: agent steps of each episode.
        score: mean return; the interval is over the episodes, None for a single one.
        firing_rates: layer -> share of active (step, unit) pairs over all decisions.
        energy_nj: of a decision, where a constant input is mapped once.
        energy_every_step_nj: of a decision, where it is mapped at each step.
    """

    time_window: int
    returns: list[float]
    lengths_steps: list[int]
    score: Interval
    firing_rates: dict[str, float]
    energy_nj: float
    energy_every_step_nj: float


def measure(player: Player, played: Episodes, seed: int) -> Measured:
    """Sum up what was played; the network is measured on the observations that were met.

    Args:
        player: who played.
        played: its episodes.
        seed: of the bootstrap.
    """
    energy, every_step = _energy(player, played)
    rng = stream(seed, "play/bootstrap")
    return Measured(
        played.time_window,
        played.returns,
        played.lengths_steps,
        interval(mean, [np.array(played.returns)], rng),
        played.firing_rates,
        energy,
        every_step,
    )


def _energy(player: Player, played: Episodes) -> tuple[float, float]:
    """Mean over the sampled observations, in nJ: map once, map at every step."""
    batches = torch.split(torch.from_numpy(played.observations), PROBED)
    weights = [len(batch) for batch in batches]
    costs = []
    for batch in batches:
        window, draws = played.time_window, player.policy.generator
        found = probe(player.network, batch, time_window=window, generator=draws)
        costs.append(cost({"version": PROBE_VERSION, **asdict(found)}))
    energy = np.average([each.energy_nj for each in costs], weights=weights)
    every_step = np.average([each.energy_every_step_nj for each in costs], weights=weights)
    return float(energy), float(every_step)
