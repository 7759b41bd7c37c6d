import inspect
from pathlib import Path

import pytest
import torch

from sdqn_lab.checks.refused import Refused
from sdqn_lab.spiking import surrogate
from sdqn_lab.spiking.surrogate import Atan, Gate, QuadraticGate, Surrogate, Triangle
from tests.golden import cases, load, surrogate_of, tensor

ALL = [
    cls
    for _, cls in inspect.getmembers(surrogate, inspect.isclass)
    if issubclass(cls, Surrogate) and cls is not Surrogate
]
each_surrogate = pytest.mark.parametrize("cls", ALL)


@pytest.mark.parametrize("path", cases("surrogate_*"))
def test_spikes_and_derivative_are_the_originals(path: Path) -> None:
    case = load(path)
    x = tensor(case["x"]).requires_grad_()
    spikes = surrogate_of(case)(x)
    spikes.sum().backward()
    expected = tensor(case["y"]) * (x != 0)  # the original's sigmoid fires at equality, ours never
    torch.testing.assert_close(spikes.detach(), expected, rtol=0, atol=0)
    torch.testing.assert_close(x.grad, tensor(case["dydx"]), rtol=1e-5, atol=1e-6)


@each_surrogate
@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0, 7.0])
def test_derivative_is_the_slope_of_the_primitive(cls: type[Surrogate], alpha: float) -> None:
    spike = cls(alpha=alpha)
    x = torch.linspace(-3, 3, 1001, dtype=torch.float64)
    near_a_kink = (x.abs() < 1e-3) | ((x.abs() - 1 / alpha).abs() < 1e-3)
    x = x[~near_a_kink]
    h = 1e-6
    slope = (spike.primitive(x + h) - spike.primitive(x - h)) / (2 * h)
    torch.testing.assert_close(spike.derivative(x), slope, rtol=1e-6, atol=1e-8)


@each_surrogate
def test_backward_is_the_upstream_gradient_times_the_derivative(cls: type[Surrogate]) -> None:
    spike = cls()
    x = torch.linspace(-1.5, 1.5, 31, dtype=torch.float64, requires_grad=True)
    upstream = torch.arange(31, dtype=torch.float64)
    spike(x).backward(upstream)
    torch.testing.assert_close(x.grad, upstream * spike.derivative(x.detach()))


@each_surrogate
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_fires_strictly_above_zero_and_keeps_the_dtype(
    cls: type[Surrogate], dtype: torch.dtype
) -> None:
    x = torch.tensor([-1.0, -1e-7, -0.0, 0.0, 1e-7, 1.0], dtype=dtype)
    expected = torch.tensor([0, 0, 0, 0, 1, 1], dtype=dtype)
    torch.testing.assert_close(cls()(x), expected, rtol=0, atol=0)


@each_surrogate
def test_equal_settings_are_equal_and_cannot_be_changed(cls: type[Surrogate]) -> None:
    assert cls(alpha=3.0) == cls(alpha=3.0) != cls(alpha=4.0)
    with pytest.raises(AttributeError):
        cls().alpha = 1.0  # type: ignore[misc]


@each_surrogate
@pytest.mark.parametrize("alpha", [0.0, -1.0, float("inf"), float("nan")])
def test_refuses_a_slope_that_is_not_positive_and_finite(
    cls: type[Surrogate], alpha: float
) -> None:
    with pytest.raises(Refused) as error:
        cls(alpha=alpha)
    assert (error.value.key, error.value.value) == ("alpha", alpha)


def test_heights_and_widths_are_those_of_the_formulas() -> None:
    x = torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=torch.float64)

    def check(spike: Surrogate, values: list[float]) -> None:
        expected = torch.tensor(values, dtype=torch.float64)
        torch.testing.assert_close(spike.derivative(x), expected)

    check(QuadraticGate(alpha=2.0), [2.0, 1.0, 0.0, 0.0])
    check(Gate(alpha=2.0), [1.0, 1.0, 0.0, 0.0])
    check(Triangle(alpha=1.0), [1.0, 0.75, 0.5, 0.0])
    check(Triangle(alpha=2.0), [1.0, 0.5, 0.0, 0.0])
    check(surrogate.FastSigmoid(alpha=2.0), [1.0, 4 / 9, 0.25, 1 / 9])
    check(surrogate.Sigmoid(alpha=2.0), [0.5, 0.4700074, 0.3932239, 0.2099872])
    pi = 3.141592653589793
    check(Atan(alpha=2.0), [1 / (1 + (pi * v) ** 2) for v in (0, 0.25, 0.5, 1)])
