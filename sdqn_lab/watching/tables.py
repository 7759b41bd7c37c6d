"""What was played as a table on a terminal."""

from collections.abc import Sequence

import numpy as np
from rich.table import Table

from sdqn_lab.analysis.energy import HOROWITZ
from sdqn_lab.envs.base import Protocol
from sdqn_lab.watching.measured import Measured
from sdqn_lab.watching.player import Player

OF_ONE_NETWORK = (
    "The spread is over episodes of this one network; it says nothing of other seeds of training."
)
ONE_EPISODE = "One episode has no interval: nothing is known of its spread."
PRICED = (
    f"Energy: {HOROWITZ.name}, {HOROWITZ.mac_pj} pJ a multiply-add and {HOROWITZ.ac_pj} pJ an "
    "addition; arithmetic alone, no measurement of hardware."
)


def protocol_line(player: Player) -> str:
    """The protocol's name and what it means for play."""
    return f"{player.cfg.choices.get('protocol')}: {', '.join(_rules(player.protocol))}"


def _rules(protocol: Protocol) -> list[str]:
    rules = [f"sticky actions {protocol.sticky_actions:g}", f"no-ops up to {protocol.noop_max}"]
    rules += ["FIRE at start"] if protocol.fire_reset else []
    rules += [f"cap {protocol.episode_cap_frames:,} frames"]
    rules += ["all actions" if protocol.full_action_space else "the game's own actions"]
    rules += ["ramping"] if protocol.difficulty_ramping else []
    return [*rules, f"epsilon {protocol.epsilon_eval:g}"]


def score(found: Measured) -> str:
    """``3.30 [2.60, 4.20]``; without interval for one episode."""
    mean, low, high = found.score
    return f"{mean:,.2f}" if low is None else f"{mean:,.2f} [{low:,.2f}, {high:,.2f}]"


def rates(found: Measured) -> str:
    """Every layer with its rate."""
    return "  ".join(f"{name} {rate:.3f}" for name, rate in found.firing_rates.items())


def energy(found: Measured) -> str:
    """Both prices, where they differ."""
    once, every = found.energy_nj, found.energy_every_step_nj
    if np.isclose(once, every):
        return f"{once:,.1f} nJ"
    return f"{once:,.1f} nJ ({every:,.1f} nJ if the first layer is mapped at each step)"


def one(player: Player, found: Measured, title: str) -> Table:
    """A row for each thing that is to be said of one T."""
    table = Table(title=title, title_justify="left", title_style="bold", show_header=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    temporal = player.network.temporal
    returns = np.array(found.returns)
    interval = "" if found.score.low is None else "  (95% interval, bootstrap over episodes)"
    rows = {
        "game": player.game,
        "arm": f"{player.arm}, seed {player.cfg.seed}",
        "protocol": protocol_line(player),
        "T": f"{found.time_window}" if temporal else "none: a network without time",
        "episodes": f"{len(returns)}, each in an environment of its own",
        "mean return": f"{score(found)}{interval}",
        "median, min, max": (
            f"{np.median(returns):,.2f}, {returns.min():,.2f}, {returns.max():,.2f}"
        ),
        "mean length": f"{np.mean(found.lengths_steps):,.1f} decisions",
        "firing rate" if temporal else "active units": rates(found),
        "energy per decision": energy(found),
    }
    for name, text in rows.items():
        table.add_row(name, text)
    return table


def several(found: Sequence[Measured], title: str) -> Table:
    """A row for each T."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for heading in ("T", "mean return", "mean length", "firing rate", "energy per decision"):
        table.add_column(heading, overflow="fold")
    for each in found:
        length = f"{np.mean(each.lengths_steps):,.1f}"
        table.add_row(f"{each.time_window}", score(each), length, rates(each), energy(each))
    return table


def notes(found: Measured) -> list[str]:
    """What a person must know to read the numbers."""
    spread = ONE_EPISODE if found.score.low is None else OF_ONE_NETWORK
    return [spread, PRICED]


def caption(player: Player, found: Measured, title: str) -> str:
    """What a figure says below itself."""
    episodes = f"{len(found.returns)} episodes at each T, the same starts"
    priced = f"energy by {HOROWITZ.name}, arithmetic alone"
    who = f"{player.game}, {player.arm}, seed {player.cfg.seed} ({title})"
    return f"{who}\nprotocol {protocol_line(player)}; {episodes}; {priced}"
