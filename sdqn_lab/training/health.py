"""Can this network learn at all? Asked before the first step, and while it trains.

A probe loss whose target differs from the outputs everywhere is sent through forward and backward
on real first observations. (The TD error of a silent network on frames without reward is zero and
says nothing.)
"""

from copy import deepcopy
from typing import Any, NamedTuple

import numpy as np
import torch

from sdqn_lab.envs.base import VectorEnv, action_space, random_actions
from sdqn_lab.networks.network import SpikingNetwork
from sdqn_lab.spiking.stats import SpikeRecorder

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
            without gradients: a layer of a torso of which no unit fires.
        starved: layers whose parameters all have a gradient of exactly zero.
        silent: layers of which no unit fired at all.
    """

    layers: dict[str, LayerHealth]
    dead: bool
    starved: list[str]
    silent: list[str]

    @property
    def note(self) -> str:
        """What is usual before learning and should pass; empty where there is nothing to note."""
        parts = []
        if self.silent:
            parts.append(f"no unit of {', '.join(self.silent)} fires yet")
        if self.starved:
            parts.append(f"{', '.join(self.starved)} gets no gradient yet")
        late = f"a layer that is silent after {WAKE_WITHIN_UPDATES:,} updates is reported"
        return f"note: {' and '.join(parts)}, which learning usually mends; {late}" if parts else ""

    def record(self) -> dict[str, Any]:
        """Plain containers for `health.json`."""
        layers = {name: layer._asdict() for name, layer in self.layers.items()}
        return {**self._asdict(), "layers": layers}


def first_observations(env: VectorEnv, seed: int) -> np.ndarray:
    """The first observations of a few random steps, about 32 of them, (B, ...)."""
    rng = np.random.default_rng(seed)
    shown, space = [env.reset(seed)], action_space(env)
    while len(shown) * env.num_envs < PROBE_OBSERVATIONS or len(shown) < env.stack:
        shown.append(env.step(random_actions(space, env.num_envs, rng)).observations)
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
    # In training mode, as learning runs it: running statistics would hide a dead normalization.
    network = deepcopy(network).train()
    device = next(network.parameters()).device
    network.zero_grad(set_to_none=True)
    generator = torch.Generator(device).manual_seed(seed)
    with SpikeRecorder(network) as recorder:
        outputs = network(torch.from_numpy(observations).to(device), generator=generator)
    heads = outputs.values() if isinstance(outputs, dict) else (outputs,)
    loss = torch.stack([(y - y.detach() - 1.0).square().mean() for y in heads]).sum()
    loss.backward()  # type: ignore[no-untyped-call]
    firing, layers = recorder.layers(), {}
    for name, norm in network.gradient_norms().items():
        seen = firing.get(name)
        layers[name] = (
            LayerHealth(*seen, float(norm)) if seen else LayerHealth(None, None, None, float(norm))
        )
    silent = [name for name, stats in firing.items() if stats.firing_rate == 0.0]
    if not by_gradient:
        # What fires in the heads fires by noise; nothing of the observation passes a silent layer.
        torso = {p + name for p, t in network.torsos().items() for name, _ in t.named_children()}
        return Health(layers, dead=not torso.isdisjoint(silent), starved=[], silent=silent)
    starved = [name for name, layer in layers.items() if layer.gradient_norm == 0.0]
    return Health(layers, dead=len(starved) == len(layers), starved=starved, silent=silent)


class Monitor:
    """Watches layers during training and reports once that one died, or never fired."""

    def __init__(self) -> None:
        self._woken: list[str] = []
        self._reported: list[str] = []

    def observe(self, values: dict[str, float], updates: int) -> list[str]:
        """Look at one record's firing rates.

        Args:
            values: metrics with `snn/firing_rate/<layer>`.
            updates: gradient steps so far.

        Returns:
            A line for each layer that is newly found dead, or back again.
        """
        lines = []
        for key, rate in values.items():
            layer = key.removeprefix("snn/firing_rate/")
            # Output neurons: silence is an answer to the few observations that are looked at.
            if layer in (key, "readout"):
                continue
            woken, reported = layer in self._woken, layer in self._reported
            if rate > 0.0:
                if not woken:
                    self._woken.append(layer)
                if reported:
                    self._reported.remove(layer)
                    lines.append(f"{layer} fires {'again' if woken else 'for the first time'}")
            elif not reported and (woken or updates >= WAKE_WITHIN_UPDATES):
                self._reported.append(layer)
                died = f"died: it fired before, and no unit fires after {updates:,} updates"
                asleep = f"has not fired once in {updates:,} updates"
                lines.append(f"{layer} {died if woken else asleep}")
        return lines

    def state_dict(self) -> dict[str, Any]:
        """What was seen and said."""
        return {"woken": list(self._woken), "reported": list(self._reported)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where the state was taken."""
        self._woken, self._reported = list(state["woken"]), list(state["reported"])
