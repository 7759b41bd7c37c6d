"""Values and gradients of compiled networks are those of torch's autograd."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch

from sdqn_lab.engines.network import compiled
from sdqn_lab.networks.network import SpikingNetwork
from sdqn_lab.spiking.neuron import CODES, IF, LIF, ReLU, SpikingNeuron
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
from tests.refusals import refuses

BATCH = 5
HARD: dict[str, Any] = {"v_threshold": 0.6, "v_reset": -0.25}
# In float32 torch's own gradients are up to 1e-6 away from those of float64.
TYPES = {"float32": (torch.float32, 2e-6), "float64": (torch.float64, 1e-12)}
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
    "minatar, as configured": (
        *(Minatar, lif(Atan), "bytes"),
        {"time_window": 8, "shape": (4, 10, 10), "hidden": 128},
    ),
    "minatar, relu": (Minatar, ReLU, "bytes", {"observation_scale": 3.0}),
    "minatar, relu, no norm": (
        *(Minatar, ReLU, "floats"),
        {"norm": NoNorm, "channels": (32,), "normalize_hidden": True},
    ),
    "mlp": (Mlp, lif(FastSigmoid, **HARD), "floats", {"time_window": 7, "layers": 2, "hidden": 96}),
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


def drawn(case: Case, dtype: torch.dtype, batch: int = BATCH) -> tuple[SpikingNetwork, np.ndarray]:
    """The first network and observations of which no membrane lies on a border."""
    make, neuron, kind, more = case
    shape = more.get("shape", IMAGE if make is Minatar else VECTOR)
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
    network: SpikingNetwork, x: np.ndarray, of_values: np.ndarray, time_window: int | None = None
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Values and gradients by torch, in float64."""
    reference = plain(network).double()
    values = reference(torch.from_numpy(x), time_window=time_window)
    (values * torch.from_numpy(of_values)).sum().backward()
    return values.detach(), gradients(reference)


def of_engine(network: SpikingNetwork) -> dict[str, torch.Tensor]:
    """The gradient that was summed up, by the names of the parameters."""
    engine = compiled(network)
    assert engine is not None
    names = [name for name, _ in network.named_parameters()]
    found = engine.views(torch.from_numpy(engine.gradient.copy()))
    return dict(zip(names, found, strict=True))


def direction(batch: int, dtype: Any, seed: int = 9) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((batch, ACTIONS)).astype(dtype)


def test_every_surrogate_with_kernels_is_among_the_cases() -> None:
    neurons = [neuron() for _, neuron, _, _ in CASES.values()]
    assert set(CODES) == {type(n.surrogate) for n in neurons if isinstance(n, SpikingNeuron)}


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize(
    "name",
    [
        # Half a minute of compiling for each type; the others have their parts one by one.
        pytest.param(name, marks=pytest.mark.slow)
        if name in ("minatar, soft", "minatar, no leak")
        else name
        for name in CASES
    ],
)
def test_values_and_gradients_are_those_of_autograd(name: str, kind: str) -> None:
    dtype, tolerance = TYPES[kind]
    network, x = drawn(CASES[name], dtype)
    of_values = direction(BATCH, np.float32)
    values, wanted = answers(network, x, of_values)
    engine = compiled(network)
    assert engine is not None
    given = engine.forward(x)
    engine.backward(x, of_values.astype(given.dtype))
    assert_near(torch.from_numpy(given), values, tolerance, "values")
    found = of_engine(network)
    assert list(found) == list(wanted)
    for key, theirs in wanted.items():
        assert_near(found[key], theirs, tolerance, key)
    assert np.array_equal(engine.values(x), given)


SOME = ["minatar, hard", "minatar, soft", "mlp, three layers", "minatar, relu, no norm"]
"""Periodic first layer, one that is not, several layers, no time."""


@pytest.mark.parametrize("name", SOME)
def test_gradients_add_up_over_calls_of_several_sizes(name: str) -> None:
    network, x = drawn(CASES[name], torch.float64)
    engine = compiled(network)
    assert engine is not None
    wanted: dict[str, torch.Tensor] = {}
    for seed, part in enumerate((x[:3], x[3:], x, x[:1], x[:3])):
        of_values = direction(len(part), np.float64, seed)
        engine.forward(part)
        engine.values(x[::-1])  # a decision in between disturbs nothing
        engine.backward(part, of_values)
        for key, theirs in answers(network, part, of_values)[1].items():
            wanted[key] = wanted.get(key, torch.zeros(())) + theirs
    found = of_engine(network)
    for key, theirs in wanted.items():
        assert_near(found[key], theirs, 1e-12, key)


@pytest.mark.parametrize("name", SOME)
def test_weights_that_were_not_numbers_leave_nothing_behind(name: str) -> None:
    network, x = drawn(CASES[name], torch.float64)
    engine = compiled(network)
    assert engine is not None
    of_values = direction(BATCH, np.float64)
    _, wanted = answers(network, x, of_values)
    good = engine.parameters.copy()
    engine.parameters[:] = np.nan
    # More samples than follow, in the same room.
    more = np.concatenate([x, x])
    engine.forward(more)
    engine.backward(more, direction(len(more), np.float64))
    engine.parameters[:] = good
    engine.gradient[:] = 0
    engine.forward(x)
    engine.backward(x, of_values)
    found = of_engine(network)
    for key, theirs in wanted.items():
        assert_near(found[key], theirs, 1e-12, key)


@pytest.mark.parametrize("name", SOME)
def test_a_sample_is_answered_alike_alone_in_a_batch_and_after_any_other(name: str) -> None:
    network, x = drawn(CASES[name], torch.float32)
    engine = compiled(network)
    assert engine is not None
    first = engine.values(x).copy()
    engine.forward(np.concatenate([x, x]))
    alone = [engine.values(x[i : i + 1])[0] for i in reversed(range(len(x)))]
    assert np.array_equal(np.stack(alone[::-1]), first)
    assert np.array_equal(engine.forward(x[::-1])[::-1], first)
    assert engine.values(x[:0]).shape == (0, ACTIONS)
    assert len(np.unique(first, axis=0)) > 1


@pytest.mark.parametrize("name", SOME)
def test_how_observations_lie_in_memory_does_not_matter(name: str) -> None:
    network, x = drawn(CASES[name], torch.float32)
    engine = compiled(network)
    assert engine is not None
    wide = np.repeat(x, 2, axis=-1)
    layouts = [np.asfortranarray(x), wide[..., ::2], x[::-1][::-1]]
    for one in layouts:
        assert not one.flags.c_contiguous or one is layouts[-1]
        assert np.array_equal(engine.values(one), engine.values(x))


def test_zeros_alone_are_an_observation_too() -> None:
    for name in SOME:
        network, x = drawn(CASES[name], torch.float64)
        engine = compiled(network)
        assert engine is not None
        nothing = np.zeros_like(x)
        values, _ = answers(network, nothing, direction(BATCH, np.float64))
        np.testing.assert_allclose(engine.values(nothing), values, rtol=0, atol=1e-12)


@pytest.mark.parametrize("steps", [1, 3, 9])
def test_a_decision_takes_as_many_steps_as_it_is_asked_for(steps: int) -> None:
    network, x = drawn(CASES["minatar, soft"], torch.float64)
    engine = compiled(network)
    assert engine is not None
    values, _ = answers(network, x, direction(BATCH, np.float64), steps)
    own, _ = answers(network, x, direction(BATCH, np.float64))
    np.testing.assert_allclose(engine.values(x, steps), values, rtol=0, atol=1e-12)
    np.testing.assert_allclose(engine.values(x), own, rtol=0, atol=1e-12)
    assert not torch.equal(values, own)


def test_a_decision_of_no_steps_is_refused() -> None:
    network, x = drawn(CASES["minatar, hard"], torch.float32)
    engine = compiled(network)
    assert engine is not None
    with refuses("time_window", 0, rule="must be >= 1"):
        engine.values(x, 0)


@pytest.mark.parametrize("name", SOME)
def test_observations_of_another_shape_are_refused(name: str) -> None:
    network, x = drawn(CASES[name], torch.float32)
    engine = compiled(network)
    assert engine is not None
    for wrong in (x[..., 1:], np.concatenate([x, x], axis=-1), x[0], x.swapaxes(0, 1), x.ravel()):
        with pytest.raises(ValueError, match="observations"):
            engine.values(wrong)
        with pytest.raises(ValueError, match="observations"):
            engine.forward(wrong)


@pytest.mark.parametrize("name", SOME)
@pytest.mark.parametrize("where", ["first weight", "last bias", "readout", "gradient of values"])
def test_what_is_not_a_number_reaches_values_and_gradient_as_in_torch(
    name: str, where: str
) -> None:
    network, x = drawn(CASES[name], torch.float64)
    of_values = direction(BATCH, np.float64)
    parameters = dict(network.named_parameters())
    *_, last = [key for key in parameters if key.endswith("linear.bias")]
    names = [*parameters]
    broken = {"first weight": names[0], "last bias": last, "readout": names[-1]}
    if where in broken:
        parameter = parameters[broken[where]]
        parameter.data[(0,) * parameter.dim()] = np.nan
    else:
        of_values[2] = np.nan
    values, wanted = answers(network, x, of_values)
    engine = compiled(network)
    assert engine is not None
    given = engine.forward(x)
    engine.backward(x, of_values)
    # A weight that meets zeros alone is not looked at here, and makes NaN of them in torch.
    if where != "first weight":
        np.testing.assert_allclose(given, values, rtol=1e-12, atol=1e-12)
    assert any(bool(grad.isnan().any()) for grad in wanted.values())
    assert np.isnan(engine.gradient).any()
