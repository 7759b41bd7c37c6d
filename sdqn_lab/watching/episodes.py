"""Episodes of a trained network: their scores, and what was seen and decided on the way.

One episode in each copy of the environment, none preferred for being short, with the streams of
training's evaluation: under the run's own protocol, T and number of episodes the same episodes are
played again.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from sdqn_lab.analysis.records import read_records
from sdqn_lab.engines.network import compiled
from sdqn_lab.envs.base import VectorEnv
from sdqn_lab.spiking.stats import SpikeRecorder, neurons
from sdqn_lab.training.evaluation import Moment, Start, evaluate
from sdqn_lab.watching.player import Player

MAX_UNITS = 64
"""Units of a layer that are kept for showing: more than a person can see."""
MAX_OBSERVATIONS = 256
"""Observations that are kept for measuring the network."""


class LayerActivity(NamedTuple):
    """One layer during one decision.

    Attributes:
        shown: (T, at most `MAX_UNITS`) outputs of units that lie evenly over the layer: spikes, or
            a ReLU's answers with T = 1.
        units: how many the layer has.
        rate: share of all (step, unit) pairs with an output above 0.
    """

    shown: npt.NDArray[np.float32]
    units: int
    rate: float


class Decision(NamedTuple):
    """One decision of the first episode.

    Attributes:
        values: (A,) what the network answered for each action, e.g. Q-values; (D,) the means of
            continuous ones.
        action: what was done; (D,) where actions are continuous.
        explored: whether it was drawn at random instead of chosen.
        layers: what the neurons did; empty unless asked for.
        score: return before this decision's reward.
        quantiles: (A, M) of each action's return, where the network has any.
    """

    values: npt.NDArray[np.float32]
    action: int | npt.NDArray[np.float32]
    explored: bool
    layers: dict[str, LayerActivity]
    score: float
    quantiles: npt.NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Episodes:
    """What was played with one network at one T.

    Attributes:
        time_window: T; 1 without time.
        returns: unclipped, one per episode.
        lengths_steps: agent steps of each episode.
        firing_rates: layer -> share of active (step, unit) pairs over all decisions.
        first: the decisions of the first episode, in order.
        observations: (at most `MAX_OBSERVATIONS`, ...) spread over all decisions.
    """

    time_window: int
    returns: list[float]
    lengths_steps: list[int]
    firing_rates: dict[str, float]
    first: list[Decision]
    observations: npt.NDArray[Any]


def last_start(run_dir: Path, seed: int) -> Start:
    """Where a run's last evaluation began, but for the seed that is asked for."""
    evaluations = read_records(run_dir / "metrics.jsonl").evaluations
    index = int(evaluations[-1].get("iteration", 1)) - 1 if evaluations else 0
    return Start(seed, index)


def play(
    player: Player,
    env: VectorEnv,
    start: Start,
    *,
    time_window: int | None = None,
    with_layers: bool = False,
    on_step: Callable[[int], None] = lambda finished: None,
) -> Episodes:
    """Play one episode in each of the environment's copies.

    Args:
        player: acts epsilon-greedily, with the epsilon of its protocol's evaluation.
        env: as many copies as episodes are wanted.
        start: where the random streams begin.
        time_window: T; None: the player's own.
        with_layers: whether the first episode's decisions hold what the neurons did.
        on_step: called at every step with the number of finished episodes.
    """
    policy = player.evaluated()
    window = time_window or player.cfg.time_window_eval
    first: list[Decision] = []
    sample = Sample(MAX_OBSERVATIONS)
    nothing: dict[str, LayerActivity] = {}
    # Hooks turn compiled decisions into torch's, whose rounding may choose other actions than the
    # evaluation did; so a copy is looked at.
    apart = compiled(player.network) is not None
    network = deepcopy(player.network).eval() if apart else player.network
    activity = layer_activity(network) if with_layers else nullcontext(nothing)

    def see(moment: Moment) -> None:
        on_step(int((~moment.running).sum()))
        sample.add(moment.observations)
        outputs = moment.choice.outputs
        if outputs is None:
            # A person wants to see answers; an evaluation did not ask. A random encoder must draw
            # afterwards as if nobody had asked.
            assert policy.generator is not None
            state = policy.generator.get_state()
            outputs = policy.outputs(moment.observations, window)
            policy.generator.set_state(state)
        if apart:
            with torch.no_grad():
                network(torch.from_numpy(moment.observations), time_window=window)
        if moment.running[0]:
            done, explored = moment.choice.actions[0], bool(moment.choice.explored[0])
            action = done if done.ndim else int(done)
            values, score = policy.values(outputs)[0].numpy(), float(moment.returns[0])
            spread = policy.quantiles(outputs)
            quantiles = None if spread is None else spread[0].numpy()
            first.append(Decision(values, action, explored, dict(layers), score, quantiles))

    with SpikeRecorder(network) as recorder, activity as layers:
        played = evaluate(policy, env, start, time_window=window, on_decision=see)
    # Nothing asks it to stop.
    assert played is not None
    rates = {name: stats.firing_rate for name, stats in recorder.layers().items()}
    shown = (time_window or player.time_window) if player.network.temporal else 1
    return Episodes(shown, *played, rates, first, sample.taken())


@contextmanager
def layer_activity(network: nn.Module) -> Iterator[dict[str, LayerActivity]]:
    """Keep the outputs of every layer for a batch's first observation while the context is open.

        with layer_activity(network) as layers:
            network(observations)
        spikes = layers["conv1"].shown

    The dictionary is that of the last forward. The network's results are not changed. Layers are
    named as `SpikeRecorder` names them.
    """
    layers: dict[str, LayerActivity] = {}

    def keep(layer: str, neuron: nn.Module, inputs: tuple[Tensor, ...], activity: Tensor) -> None:
        first = activity[:, 0].flatten(1).detach()
        units = first.shape[1]
        shown = first[:, shown_units(units)].float().cpu().numpy()
        layers[layer] = LayerActivity(shown, units, (first > 0).float().mean().item())

    with ExitStack() as hooks:
        for layer, neuron in neurons(network):
            hooks.callback(neuron.register_forward_hook(partial(keep, layer)).remove)
        yield layers


def shown_units(units: int) -> npt.NDArray[np.int64]:
    """The numbers of at most `MAX_UNITS` units, evenly from the first to the last."""
    return np.linspace(0, units - 1, min(units, MAX_UNITS)).round().astype(np.int64)


class Sample:
    """Rows spread evenly over a stream of unknown length.

    Args:
        size: how many are kept at the end, >= 1.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._rows: list[npt.NDArray[Any]] = []
        self._stride, self._seen = 1, 0

    def add(self, rows: npt.NDArray[Any]) -> None:
        """Pass rows (N, ...) by; each that is due is kept."""
        for row in rows:
            if self._seen % self._stride == 0:
                # A copy: a view would hold the whole batch.
                self._rows.append(row.copy())
            self._seen += 1
            # Never more than twice as many are held, whatever the stream's length.
            if len(self._rows) == 2 * self._size:
                self._rows = self._rows[::2]
                self._stride *= 2

    def taken(self) -> npt.NDArray[Any]:
        """What was kept, (at most `size`, ...)."""
        due = -(-len(self._rows) // self._size) or 1
        return np.stack(self._rows[::due])
