"""Can this network learn at all? Asked before the first step, and while it trains.

A probe loss whose target differs from the outputs everywhere is sent through forward and backward
on real first observations. (The TD error of a silent network on frames without reward is zero and
says nothing.)
"""

from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any, NamedTuple

import numpy as np
import torch

from sdqn_lab.envs.base import VectorEnv
from sdqn_lab.networks.network import SpikingNetwork
from sdqn_lab.spiking.stats import LayerStats, SpikeRecorder
from sdqn_lab.training.layers import gradient_norms

WAKE_WITHIN_UPDATES = 2_000
"""A layer that has not fired once after so many updates is reported."""
PROBE_OBSERVATIONS = 32


class LayerHealth(NamedTuple):
    """What the probe saw of one layer; the head has no firing."""

    firing_rate: float | None
    silent_fraction: float | None
    saturated_fraction: float | None
    gradient_norm: float


class Health(NamedTuple):
    """The probe's finding.

    Attributes:
        layers: by name, in order.
        dead: every trainable parameter's gradient is exactly zero; for an agent that learns
            without gradients: no unit of any layer fires.
        starved: layers whose parameters all have a gradient of exactly zero.
        silent: layers of which no unit fired at all.
    """

    layers: dict[str, LayerHealth]
    dead: bool
    starved: list[str]
    silent: list[str]

    def lines(self) -> list[str]:
        """Starved and silent layers, a line each; ``dead_line`` speaks of the dead."""
        lines = []
        if self.starved and not self.dead:
            lines.append(f"starved at the start: no gradient reaches {', '.join(self.starved)}")
        if self.silent and not self.dead:
            lines.append(
                f"silent at the start: {', '.join(self.silent)} (fires once learning moves it)"
            )
        return lines

    def record(self) -> dict[str, Any]:
        """Plain containers for ``health.json``."""
        layers = {name: layer._asdict() for name, layer in self.layers.items()}
        return {**self._asdict(), "layers": layers}


def first_observations(env: VectorEnv, seed: int) -> np.ndarray:
    """The first observations of a few random steps, about 32 of them, (B, ...)."""
    rng = np.random.default_rng(seed)
    shown = [env.reset(seed)]
    while len(shown) * env.num_envs < PROBE_OBSERVATIONS or len(shown) < env.stack:
        shown.append(env.step(rng.integers(env.num_actions, size=env.num_envs)).observations)
    return np.concatenate(shown)[-PROBE_OBSERVATIONS:]


def probe(
    network: SpikingNetwork, observations: np.ndarray, seed: int, *, by_gradient: bool = True
) -> Health:
    """Forward and backward of the loss mean((y - stopgrad(y) - 1)^2), summed over the heads y.

    It runs on a copy of the network.

    Args:
        network: left as it is: its gradients and running statistics do not move.
        observations: (B, ...), as the environment gives them.
        seed: for an encoder that draws.
        by_gradient: whether the network is to learn by gradients.
    """
    network = deepcopy(network).train()
    device = next(network.parameters()).device
    network.zero_grad(set_to_none=True)
    generator = torch.Generator(device).manual_seed(seed)
    with SpikeRecorder(network) as recorder:
        outputs = network(torch.from_numpy(observations).to(device), generator=generator)
    heads = outputs.values() if isinstance(outputs, dict) else (outputs,)
    loss = torch.stack([(y - y.detach() - 1.0).square().mean() for y in heads]).sum()
    loss.backward()  # type: ignore[no-untyped-call]
    firing = recorder.layers()
    norms = {name: float(norm) for name, norm in gradient_norms(network).items()}
    layers = {name: _layer(firing.get(name), norm) for name, norm in norms.items()}
    silent = [name for name, stats in firing.items() if stats.firing_rate == 0.0]
    if not by_gradient:
        return Health(layers, dead=len(silent) == len(firing), starved=[], silent=silent)
    starved = [name for name, norm in norms.items() if norm == 0.0]
    return Health(layers, dead=not any(norms.values()), starved=starved, silent=silent)


def _layer(stats: LayerStats | None, norm: float) -> LayerHealth:
    if stats is None:
        return LayerHealth(None, None, None, norm)
    return LayerHealth(stats.firing_rate, stats.silent_fraction, stats.saturated_fraction, norm)


def dead_line(cell: str, axes: str, cures: list[str], *, by_gradient: bool) -> str:
    """One line: what is dead, which axes make it so, and which changes were tried and help."""
    why = "no gradient reaches any parameter" if by_gradient else "no unit of any layer fires"
    cure = f"write {' or '.join(cures)}" if cures else "none of the usual changes cures it"
    return f"{cell}: dead: {why} under {axes}; {cure}"


def cures(
    candidates: Mapping[str, Callable[[], SpikingNetwork]],
    observations: np.ndarray,
    *,
    by_gradient: bool,
) -> list[str]:
    """Those changes after which the network is no longer dead, each one really tried."""
    return [
        change
        for change, make in candidates.items()
        if not probe(make(), observations, 0, by_gradient=by_gradient).dead
    ]


class Monitor:
    """Watches layers during training and says once when one dies, or does not wake."""

    def __init__(self) -> None:
        self._woken: list[str] = []
        self._reported: list[str] = []

    def observe(self, values: dict[str, float], updates: int) -> list[str]:
        """Look at one record's firing rates.

        Args:
            values: metrics with ``snn/firing_rate/<layer>``.
            updates: gradient steps so far.

        Returns:
            A line for each layer that is newly found dead, or back again.
        """
        prefix = "snn/firing_rate/"
        rates = {k.removeprefix(prefix): v for k, v in values.items() if k.startswith(prefix)}
        return [line for layer, rate in rates.items() if (line := self._look(layer, rate, updates))]

    def _look(self, layer: str, rate: float, updates: int) -> str | None:
        if rate > 0.0:
            return self._fires(layer)
        if layer in self._reported:
            return None
        if layer in self._woken:
            self._reported.append(layer)
            return f"{layer} died: it fired before, and no unit fires after {updates:,} updates"
        if updates < WAKE_WITHIN_UPDATES:
            return None
        self._reported.append(layer)
        return f"{layer} has not fired once in {updates:,} updates"

    def _fires(self, layer: str) -> str | None:
        fired_before = layer in self._woken
        if not fired_before:
            self._woken.append(layer)
        if layer not in self._reported:
            return None
        self._reported.remove(layer)
        return f"{layer} fires {'again' if fired_before else 'for the first time'}"

    def state_dict(self) -> dict[str, Any]:
        """What was seen and said."""
        return {"woken": list(self._woken), "reported": list(self._reported)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where the state was taken."""
        self._woken, self._reported = list(state["woken"]), list(state["reported"])
