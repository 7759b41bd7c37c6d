"""Values and gradients of compiled networks are those of torch's autograd."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch

from sdqn_lab.engines.network import compiled
from sdqn_lab.networks.network import SpikingNetwork
from sdqn_lab.spiking.neuron import CODES, IF, LIF, ReLU
from sdqn_lab.spiking.norm import NoNorm, PopNorm
from sdqn_lab.spiking.surrogate import (
    Atan,
    FastSigmoid,
    Gate,
    QuadraticGate,
    Sigmoid,
    Triangle,
)
from tests.engines.helpers import (
    ACTIONS,
    BORDER,
    IMAGE,
    VECTOR,
    Minatar,
    Mlp,
    assert_near,
    gradients,
    is_lively,
    margin,
    plain,
    seen,
)

BATCH = 5
HARD: dict[str, Any] = {"v_threshold": 0.6, "v_reset": -0.25}
TYPES = {"float32": (torch.float32, 1e-6), "float64": (torch.float64, 1e-10)}
Case = tuple[Callable[..., SpikingNetwork], Any, str, Mapping[str, Any]]


def lif(surrogate: Any, **more: Any) -> Callable[[], LIF]:
    return lambda: LIF(surrogate=surrogate(alpha=0.8), **more)


def if_(surrogate: Any, **more: Any) -> Callable[[], IF]:
    return lambda: IF(surrogate=surrogate(alpha=0.8), **more)


CASES: dict[str, Case] = {
    "minatar, hard": (Minatar, lif(Atan), "bytes", {"time_window": 4}),
    "minatar, 32 channels, reset below rest": (
        *(Minatar, lif(Sigmoid, tau=1.3, detach_reset=False, **HARD), "bools"),
        {"time_window": 7, "channels": (32,), "normalize_hidden": True},
    ),
    "minatar, soft": (
        *(Minatar, lif(Triangle, tau=1.5, reset="soft", detach_reset=False), "floats"),
        {"time_window": 4, "norm": NoNorm},
    ),
    "minatar, soft, detached": (
        *(Minatar, if_(FastSigmoid, reset="soft", v_threshold=0.7), "bytes"),
        {"time_window": 7, "channels": (32,), "observation_scale": 3.0},
    ),
    "minatar, no leak": (
        *(Minatar, if_(QuadraticGate, detach_reset=False, **HARD), "floats"),
        {"time_window": 4, "channels": (32,), "normalize_hidden": True},
    ),
    "minatar, no leak, no norm": (
        *(Minatar, if_(Gate), "bools"),
        {"time_window": 7, "norm": NoNorm, "normalize_hidden": True},
    ),
    "minatar, one step": (
        *(Minatar, lif(QuadraticGate, tau=1.25), "bytes"),
        {"time_window": 1, "observation_scale": 2.0},
    ),
    "minatar, no memory": (
        *(Minatar, lif(Gate, tau=1.0, detach_reset=False), "floats"),
        {"time_window": 4, "channels": (32,)},
    ),
    "minatar, relu": (Minatar, ReLU, "bytes", {"observation_scale": 3.0}),
    "minatar, relu, no norm": (
        *(Minatar, ReLU, "floats"),
        {"norm": NoNorm, "channels": (32,), "normalize_hidden": True},
    ),
    "mlp": (Mlp, lif(FastSigmoid, **HARD), "floats", {"time_window": 7, "layers": 2}),
    "mlp, one layer": (
        *(Mlp, lif(Triangle, tau=1.5, reset="soft"), "floats"),
        {"time_window": 4, "layers": 1, "normalize_hidden": True, "observation_scale": 0.5},
    ),
    "mlp, one step of one layer": (
        *(Mlp, if_(Sigmoid, reset="soft", detach_reset=False, v_threshold=0.7), "bytes"),
        {"time_window": 1, "layers": 1},
    ),
    "mlp, three layers": (
        *(Mlp, lif(Atan, detach_reset=False, v_threshold=0.4), "bools"),
        {"time_window": 4, "layers": 3, "norm": NoNorm, "normalize_hidden": True},
    ),
    "mlp, three layers, no leak": (
        *(Mlp, if_(Atan, **HARD), "bytes"),
        {"time_window": 7, "layers": 3, "observation_scale": 3.0, "normalize_hidden": True},
    ),
    "mlp, relu": (Mlp, ReLU, "floats", {"layers": 3, "normalize_hidden": True}),
}
SURROGATES = {Atan, Sigmoid, Triangle, FastSigmoid, QuadraticGate, Gate}


def drawn(case: Case, dtype: torch.dtype, batch: int = BATCH) -> tuple[SpikingNetwork, np.ndarray]:
    """The first network and observations of which no membrane lies on a border."""
    make, neuron, kind, more = case
    shape = IMAGE if make is Minatar else VECTOR
    for seed in range(50):
        network = make(neuron, **{"norm": PopNorm, "seed": seed, **more}).to(dtype)
        random = torch.Generator().manual_seed(seed)
        for module in network.modules():
            if type(module) is PopNorm:
                for parameter in module.parameters():
                    parameter.data += 0.3 * torch.randn(parameter.shape, generator=random)
        x = seen(shape, batch, kind, seed)
        if margin(network, x) > 2 * BORDER and is_lively(network, x):
            return network, x
    raise AssertionError("no network without a membrane on a border")


def answers(
    network: SpikingNetwork, x: np.ndarray, of_values: np.ndarray
) -> tuple[np.ndarray, dict[str, torch.Tensor]]:
    """Values and gradients by torch."""
    values = network(torch.from_numpy(x))
    network.zero_grad()
    (values * torch.from_numpy(of_values)).sum().backward()
    return values.detach().numpy(), gradients(network)


def direction(batch: int, dtype: type) -> np.ndarray:
    return np.random.default_rng(9).standard_normal((batch, ACTIONS)).astype(dtype)


def test_every_surrogate_with_kernels_is_among_the_cases() -> None:
    assert set(CODES) == SURROGATES


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_those_of_autograd(name: str, kind: str) -> None:
    dtype, tolerance = TYPES[kind]
    network, x = drawn(CASES[name], dtype)
    reference, engine = plain(network), compiled(network)
    assert engine is not None
    of_values = direction(BATCH, engine.parameters.dtype.type)
    values, wanted = answers(reference, x, of_values)
    given = engine.forward(x)
    engine.backward(x, of_values)
    assert_near(torch.from_numpy(given), torch.from_numpy(values), tolerance, "values")
    found = engine.views(torch.from_numpy(engine.gradient))
    for (key, theirs), ours in zip(wanted.items(), found, strict=True):
        assert_near(ours, theirs, tolerance, key)
    assert np.array_equal(engine.values(x), given)
