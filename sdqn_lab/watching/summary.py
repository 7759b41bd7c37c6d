"""What was played as numbers and tables: scores with their interval, firing rates, energy."""

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import torch
from rich.table import Table

from sdqn_lab.agents.seeding import stream
from sdqn_lab.analysis.energy import HOROWITZ, cost
from sdqn_lab.analysis.statistics import Interval, interval, mean
from sdqn_lab.analysis.time_windows import Point
from sdqn_lab.networks.probe import probe
from sdqn_lab.runs.directory import PROBE_VERSION
from sdqn_lab.watching.episodes import Episodes
from sdqn_lab.watching.player import Player

PROBE_BATCH = 32
"""Observations that are measured at once: their membranes are all in memory."""
OF_ONE_NETWORK = (
    "The spread is over episodes of this one network; it says nothing of other seeds of training."
)
ONE_EPISODE = "One episode has no interval: nothing is known of its spread."
PRICES = (
    f"Energy: {HOROWITZ.name}, {HOROWITZ.mac_pj} pJ per multiply-add and {HOROWITZ.ac_pj} pJ per "
    "addition; arithmetic alone, no measurement of hardware."
)


def measure(player: Player, played: Episodes, seed: int) -> Point:
    """Sum up what was played; the network is measured on the observations that were met.

    Args:
        player: who played.
        played: its episodes.
        seed: of the bootstrap.
    """
    batches = torch.split(torch.from_numpy(played.observations), PROBE_BATCH)
    costs = []
    for batch in batches:
        draws = player.policy.generator
        found = probe(player.network, batch, time_window=played.time_window, generator=draws)
        price = cost({"version": PROBE_VERSION, **asdict(found)})
        costs.append((price.energy_nj, price.energy_every_step_nj))
    once, every_step = np.average(costs, axis=0, weights=[len(batch) for batch in batches])
    return Point(
        time_window=played.time_window,
        episodes=len(played.returns),
        score=interval(mean, [np.array(played.returns)], stream(seed, "play/bootstrap")),
        firing_rates=played.firing_rates,
        energy_nj=float(once),
        energy_every_step_nj=float(every_step),
    )


def protocol_line(player: Player) -> str:
    """The protocol's name and what it means for play."""
    protocol = player.protocol
    rules = [f"sticky actions {protocol.sticky_actions:g}", f"no-ops up to {protocol.noop_max}"]
    rules += ["FIRE at start"] if protocol.fire_reset else []
    rules += [f"cap {protocol.episode_cap_frames:,} frames"]
    rules += ["all actions" if protocol.full_action_space else "the game's own actions"]
    rules += ["ramping"] if protocol.difficulty_ramping else []
    rules += [f"epsilon {protocol.epsilon_eval:g}"]
    return f"{player.cfg.choices.get('protocol')}: {', '.join(rules)}"


def score_text(score: Interval) -> str:
    """A mean return and its interval, if it has one."""
    estimate, low, high = score
    return f"{estimate:,.2f}" if low is None else f"{estimate:,.2f} [{low:,.2f}, {high:,.2f}]"


def columns(played: Episodes, point: Point) -> tuple[str, str, str, str]:
    """Mean return, mean length, firing rates and energy, as text."""
    score = score_text(point.score)
    rates = "  ".join(f"{name} {rate:.3f}" for name, rate in point.firing_rates.items())
    once, every = point.energy_nj, point.energy_every_step_nj
    dearer = "" if np.isclose(once, every) else f" ({every:,.1f} nJ if the first layer is mapped "
    energy = f"{once:,.1f} nJ{dearer and dearer + 'at each step)'}"
    return score, f"{np.mean(played.lengths_steps):,.1f}", rates, energy


def table_of_one(player: Player, played: Episodes, point: Point, title: str) -> Table:
    """A row for each thing that is to be said of one T."""
    table = Table(title=title, title_justify="left", title_style="bold", show_header=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    temporal = player.network.temporal
    returns = np.array(played.returns)
    score, length, rates, energy = columns(played, point)
    interval_of = "" if point.score.low is None else "  (95% interval, bootstrap over episodes)"
    rows = {
        "game": player.game,
        "arm": f"{player.arm}, seed {player.cfg.seed}",
        "protocol": protocol_line(player),
        "T": f"{point.time_window}" if temporal else "none: a network without time",
        "episodes": f"{len(returns)}, each in an environment of its own",
        "mean return": f"{score}{interval_of}",
        "median, min, max": (
            f"{np.median(returns):,.2f}, {returns.min():,.2f}, {returns.max():,.2f}"
        ),
        "mean length": f"{length} decisions",
        "firing rate" if temporal else "active units": rates,
        "energy per decision": energy,
    }
    for row in rows.items():
        table.add_row(*row)
    return table


def table_of_several(found: Sequence[tuple[Episodes, Point]], title: str) -> Table:
    """A row for each T."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for heading in ("T", "mean return", "mean length", "firing rate", "energy per decision"):
        table.add_column(heading, overflow="fold")
    for played, point in found:
        table.add_row(f"{point.time_window}", *columns(played, point))
    return table


def notes(point: Point) -> tuple[str, str]:
    """What a person must know to read the numbers."""
    return ONE_EPISODE if point.score.low is None else OF_ONE_NETWORK, PRICES


def caption(player: Player, point: Point, title: str) -> str:
    """What a figure says below itself."""
    episodes = f"{point.episodes} episodes at each T, the same starts"
    prices = f"energy by {HOROWITZ.name}, arithmetic alone"
    who = f"{player.game}, {player.arm}, seed {player.cfg.seed} ({title})"
    return f"{who}\nprotocol {protocol_line(player)}; {episodes}; {prices}"
