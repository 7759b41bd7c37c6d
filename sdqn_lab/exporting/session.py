"""What `python -m sdqn_lab.export` does: fix norms if that is asked for, fold, write, report."""

import io
import json
from contextlib import closing
from importlib.metadata import version
from typing import Any, Literal

import numpy as np
import torch
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from sdqn_lab.assembly import build
from sdqn_lab.checks.refused import ConfigError, Refused
from sdqn_lab.exporting.calibration import Agreement, Played, calibrated, observed, played
from sdqn_lab.exporting.graph import (
    DT,
    form_of,
    nir_graph,
    obstacles,
    package,
    scale_in_weights,
    statistic,
)
from sdqn_lab.exporting.request import Request
from sdqn_lab.runs.files import write_atomic
from sdqn_lab.spiking.norm import PopNorm
from sdqn_lab.watching import summary
from sdqn_lab.watching.episodes import last_start
from sdqn_lab.watching.player import Player, check_game, load
from sdqn_lab.watching.request import unwritable

IN_NEURONS = (
    "The norms of convolutions are in r and v_leak of their neurons, because a dense matrix would "
    "be too large. That is NIR's definition; snnTorch, Norse and SpikingJelly do not read it."
)
"""What a person must know of such a file."""


class Session:
    """A trained network on its way into a file, as a request says.

    Args:
        request: what is asked for.
        output: where results are printed.
        messages: where progress is shown, if it is a terminal.

    Raises:
        FileNotFoundError: there is no run, or no network of it.
        ConfigError: the run is damaged, names code of others, or has what NIR cannot say.
        Refused: `nir` is not installed, the norms would fit nowhere, or the run does not fit what
            is asked for, or its game.
    """

    def __init__(self, request: Request, output: Console, messages: Console) -> None:
        self._request, self._output, self._messages = request, output, messages
        self._nir = package()
        which: Literal["last", "best"] = "best" if request.network == "best" else "last"
        self._player = player = load(request.run_dir, which, request.trust)
        if not isinstance(player.actions, int):
            env = player.cfg.choices.get("env")
            rule = "has continuous actions, and the export writes networks that choose among some"
            raise Refused("env", env, f"{rule}; write the directory of another run")
        count = request.calibrate_norm
        if problems := list(obstacles(player.network, head_of(player), count is not None)):
            raise ConfigError(problems)
        norms = [each for each in player.network.modules() if isinstance(each, PopNorm)]
        if count is not None and not norms:
            name = player.cfg.choices.get("norm")
            rule = f"norm={name} takes no statistics of samples; leave it out"
            raise Refused("--calibrate-norm", count, rule)
        torch.set_num_threads(build.resolve_threads(player.cfg.threads))
        check_game(player)
        with closing(player.make_env(1)) as env:
            self._shape, numbers = env.observation_shape, map(str, range(player.num_actions))
            self._action_names = getattr(env, "action_names", tuple(numbers))
        # Asked once more when the graph is made; here before minutes of play.
        form_of(player.network, self._shape)

    def export(self) -> None:
        """Write the file; before that fix the norms and say what it changes, if that is asked for.

        Raises:
            Refused: the file cannot be written.
        """
        player, file, found = self._player, self._request.nir, dict[str, Any]()
        if self._request.calibrate_norm is not None:
            player, found = self._calibrate(self._request.calibrate_norm)
        known = facts(player, self._action_names)
        metadata = {**known, **found, "network": self._request.network}
        graph = nir_graph(player.network, head_of(player), self._shape, metadata)
        written = io.BytesIO()
        self._nir.write(written, graph)
        try:
            write_atomic(file, written.getvalue())
        except OSError as error:
            raise unwritable("--nir", file, error) from error
        size = len(written.getvalue()) / 1e6
        rows = [f"{name} {type(node).__name__}" for name, node in graph.nodes.items()]
        self._print(f"{file} ({size:.1f} MB): {', '.join(rows)}")
        if graph.metadata["norms_in"] == "neurons":
            self._print(IN_NEURONS)

    def _calibrate(self, count: int) -> tuple[Player, dict[str, Any]]:
        """Fix the norms, play with both networks, print both, give the one that can be written."""
        player, request = self._player, self._request
        copies = request.episodes or player.protocol.eval_episodes
        start = last_start(request.run_dir, player.cfg.seed)
        with self._messages.status("playing"):
            seen = observed(player, start, count, player.protocol.eval_episodes)
            network = calibrated(player.network, seen, player.cfg.time_window_eval)
            fixed = Player(player.cfg, network, player.actions, player.normalizer)
            calibrating, playing = Agreement(player, fixed), Agreement(player, fixed)
            calibrating.ask(seen)
            both = {"statistics of each sample": played(player, start, copies, playing)}
            both["statistics fixed"] = played(fixed, start, copies)
        self._output.print(table(both, f"{request.run_dir}, {request.network} network"))
        self._print(
            f"{player.game}, {summary.protocol_line(player)}; episodes: {copies} each",
            f"decisions that stay the same: {calibrating} on the observations that fixed the "
            f"norms, {playing} while the first network played",
            summary.OF_ONE_NETWORK if copies > 1 else summary.ONE_EPISODE,
        )
        same = np.array([playing.same, playing.decisions])
        return fixed, {"calibration_observations": count, "calibration_same_decisions": same}

    def _print(self, *lines: str) -> None:
        for line in lines:
            self._output.print(line, soft_wrap=True)


def head_of(player: Player) -> str:
    """The name of the head that decides."""
    names = list(player.network.heads)
    return player.policy.head if player.policy.head in names else names[0]


def facts(player: Player, action_names: tuple[str, ...]) -> dict[str, Any]:
    """What a host must know beside the graph, plain values and arrays."""
    cfg, network, policy = player.cfg, player.network, player.policy
    encoder = OmegaConf.to_container(cfg.encoder)
    assert isinstance(encoder, dict)
    encoder.pop("_target_")
    in_weights = scale_in_weights(network) == network.observation_scale
    return {
        "sdqn_lab": version("sdqn_lab"),
        "game": player.game,
        "arm": player.arm,
        "seed": cfg.seed,
        "protocol": summary.protocol_line(player),
        "time_window": player.time_window,
        "dt": DT,
        "encoder": type(network.encoder).__name__,
        "encoder_arguments": json.dumps(encoder),
        "observation_scale": network.observation_scale,
        "observation_scale_in": "weights" if in_weights else "host",
        "head": head_of(player),
        "outputs": policy.outputs_name,
        "decision": (type(policy).__doc__ or "").partition("\n")[0],
        "action_names": json.dumps(action_names),
        **statistic(network.heads[head_of(player)], player.time_window),
        **({} if player.normalizer is None else player.normalizer.record()),
    }


def table(both: dict[str, Played], title: str) -> Table:
    """A row for each network."""
    grid = Table(title=title, title_justify="left", title_style="bold")
    for heading in ("norms", "mean return [95% interval]", "mean length"):
        grid.add_column(heading, overflow="fold")
    for name, (score, length) in both.items():
        grid.add_row(name, summary.score_text(score), f"{length:,.1f} decisions")
    return grid
