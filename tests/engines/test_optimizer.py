"""The compiled optimizer takes the steps of torch's, and their states are one."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.utils import clip_grad_norm_

from sdqn_lab.engines.network import CompiledNetwork, compiled
from sdqn_lab.engines.optimizer import CompiledOptimizer
from sdqn_lab.networks.network import SpikingNetwork
from tests.engines.helpers import Minatar, plain

STEPS, TOLERANCE = 20, 1e-12
Make = tuple[type[torch.optim.Optimizer], dict[str, Any]]
OPTIMIZERS: dict[str, Make] = {
    "adam": (torch.optim.Adam, {}),
    "adam, fused": (torch.optim.Adam, {"fused": True, "eps": 1e-3}),
    "adam, decay": (torch.optim.Adam, {"weight_decay": 0.1, "betas": (0.8, 0.99)}),
    "adamw": (torch.optim.AdamW, {"fused": True, "weight_decay": 0.1}),
    "radam": (torch.optim.RAdam, {"eps": 1e-3}),
    "radam, decay": (torch.optim.RAdam, {"weight_decay": 0.1, "betas": (0.8, 0.99)}),
    "radam, decoupled": (
        torch.optim.RAdam,
        {"weight_decay": 0.1, "decoupled_weight_decay": True},
    ),
    "rmsprop": (torch.optim.RMSprop, {"alpha": 0.9, "eps": 1e-3}),
    "rmsprop, decay": (torch.optim.RMSprop, {"weight_decay": 0.1}),
}
ALL = pytest.mark.parametrize("name", OPTIMIZERS)


def hand_over(gradient: list[torch.Tensor], network: SpikingNetwork) -> None:
    """As autograd does, in each parameter's order in memory, upon which fused Adam relies."""
    for parameter, grad in zip(network.parameters(), gradient, strict=True):
        parameter.grad = torch.empty_like(parameter).copy_(grad)


class Pair:
    """Two networks alike: one that the engine moves, one that torch moves."""

    def __init__(self, name: str, learning_rate: float = 0.01) -> None:
        kind, more = OPTIMIZERS[name]
        network = Minatar().double()
        self.network = network
        self.reference: SpikingNetwork = plain(network)
        found = compiled(network)
        assert found is not None
        self.engine: CompiledNetwork = found
        self.of_engine = kind(network.parameters(), lr=learning_rate, **more)
        self.torch = kind(self.reference.parameters(), lr=learning_rate, **more)
        self.compiled = CompiledOptimizer(self.engine, self.of_engine)
        self.random = np.random.default_rng(0)

    def draw(self) -> list[torch.Tensor]:
        """Gradients of the parameters; some are large, so that clipping counts, some are zero."""
        length = len(self.engine.gradient)
        size = self.random.exponential(0.2) * self.random.integers(2, size=length)
        return self.engine.views(torch.from_numpy(size * self.random.standard_normal(length)))

    def step(self, limit: float | None = None, *, by_torch: bool = False) -> tuple[float, float]:
        """One step of both; the norms that they saw."""
        drawn = self.draw()
        hand_over(drawn, self.reference)
        theirs = float(clip_grad_norm_(self.reference.parameters(), limit or math.inf))
        self.torch.step()
        if by_torch:
            hand_over(drawn, self.network)
            self.of_engine.step()
            return theirs, theirs
        flat = torch.from_numpy(self.engine.gradient)
        for view, grad in zip(self.engine.views(flat), drawn, strict=True):
            view.copy_(grad)
        return self.compiled.step(limit), theirs

    def assert_equal(self, tolerance: float = TOLERANCE) -> None:
        theirs = dict(self.reference.named_parameters())
        for key, parameter in self.network.named_parameters():
            torch.testing.assert_close(parameter, theirs[key], rtol=tolerance, atol=tolerance)


@ALL
def test_steps_are_those_of_torch(name: str) -> None:
    pair = Pair(name)
    for _ in range(STEPS):
        ours, theirs = pair.step()
        assert ours == pytest.approx(theirs, rel=TOLERANCE)
        pair.assert_equal()
        assert not pair.engine.gradient.any()


@ALL
def test_a_learning_rate_that_falls_counts_from_the_next_step(name: str) -> None:
    pair = Pair(name)
    for number in range(STEPS):
        for group in pair.of_engine.param_groups + pair.torch.param_groups:
            group["lr"] = 0.05 * (1 - number / STEPS)
        pair.step()
    pair.assert_equal()


@ALL
def test_gradients_are_clipped_as_torch_clips_them(name: str) -> None:
    pair, limit = Pair(name), 3.0
    norms = [pair.step(limit) for _ in range(STEPS)]
    pair.assert_equal()
    assert min(theirs for _, theirs in norms) < limit < max(theirs for _, theirs in norms)
    for ours, theirs in norms:
        assert ours == pytest.approx(theirs, rel=TOLERANCE)


def test_the_norms_of_layers_are_those_after_clipping() -> None:
    pair = Pair("adam")
    drawn = pair.draw()
    flat = torch.from_numpy(pair.engine.gradient)
    for view, grad in zip(pair.engine.views(flat), drawn, strict=True):
        view.copy_(grad)
    hand_over(drawn, pair.reference)
    norm = pair.compiled.step(1e-3)
    assert norm == pytest.approx(float(clip_grad_norm_(pair.reference.parameters(), 1e-3)))
    wanted = {key: float(norm) for key, norm in pair.reference.gradient_norms().items()}
    assert pair.compiled.norms == pytest.approx(wanted, rel=TOLERANCE)
    assert len(set(wanted.values())) == 3


@ALL
def test_torch_goes_on_from_the_engine_and_the_engine_from_torch(name: str) -> None:
    pair = Pair(name)
    for by_torch in (False, True, False):
        if by_torch:
            pair.compiled.store()
        else:
            pair.compiled.load()
        for _ in range(4):
            pair.step(by_torch=by_torch)
        pair.assert_equal()


@ALL
def test_a_state_of_torch_is_taken_over_and_handed_back(name: str) -> None:
    pair, other = Pair(name), Pair(name)
    for _ in range(8):
        pair.step()
    with torch.no_grad():
        for parameter, moved in zip(other.engine.own, pair.reference.parameters(), strict=True):
            parameter.copy_(moved)
    other.of_engine.load_state_dict(pair.torch.state_dict())
    other.compiled.load()
    other.compiled.store()
    taken, given = other.of_engine.state_dict(), pair.torch.state_dict()
    assert taken["param_groups"] == given["param_groups"]
    assert taken["state"].keys() == given["state"].keys()
    for key, state in given["state"].items():
        for word, value in state.items():
            torch.testing.assert_close(taken["state"][key][word], value, rtol=0, atol=0)
    other.reference, other.torch, other.random = pair.reference, pair.torch, pair.random
    for _ in range(8):
        other.step()
    other.assert_equal()


def test_a_state_from_before_the_first_step_forgets_all_steps() -> None:
    pair, fresh = Pair("adam"), Pair("adam")
    for _ in range(3):
        pair.step()
    pair.of_engine.load_state_dict(fresh.of_engine.state_dict())
    pair.compiled.load()
    with torch.no_grad():
        for parameter, start in zip(pair.engine.own, fresh.engine.own, strict=True):
            parameter.copy_(start)
    pair.reference, pair.torch = fresh.reference, fresh.torch
    for _ in range(3):
        pair.step()
    pair.assert_equal()
