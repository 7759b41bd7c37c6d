import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sdqn_lab.checks.refused import Refused
from sdqn_lab.spiking.norm import BatchNorm, NoNorm, Norm, PopNorm
from tests.golden import cases, load, tensor


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(*shape, generator=generator, dtype=torch.float64) + 0.7


def assert_relative(actual: Tensor | None, expected: Tensor) -> None:
    assert actual is not None
    assert (actual - expected).norm() <= 1e-4 * expected.norm()


@pytest.mark.parametrize("path", cases("popnorm_*x*_thr*") + cases("popnorm_16_*"))
def test_popnorm_and_its_gradients_are_the_originals(path: Path) -> None:
    case = load(path)
    norm = PopNorm(
        case["normalized_shape"].tolist(),
        v_threshold=float(case["threshold"]),
        v_reset=float(case["v_reset"]),
        eps=float(case["eps"]),
    )
    affine = str(case["affine"])
    if affine == "off":
        nn.init.ones_(norm.weight)
        nn.init.zeros_(norm.bias)
    elif affine == "perturbed":
        norm.load_state_dict({name: tensor(case[name]) for name in ("weight", "bias")})
    else:
        assert torch.equal(norm.weight, tensor(case["weight"]))
        assert torch.equal(norm.bias, tensor(case["bias"]))
    x = tensor(case["x"]).requires_grad_()
    y = norm(x)
    (tensor(case["w"]) * y).sum().backward()
    torch.testing.assert_close(y.detach(), tensor(case["y"]), rtol=1e-5, atol=1e-5)
    assert_relative(x.grad, tensor(case["dloss_dx"]))
    if affine != "off":
        assert_relative(norm.weight.grad, tensor(case["dloss_dweight"]))
        assert_relative(norm.bias.grad, tensor(case["dloss_dbias"]))


@pytest.mark.parametrize("path", cases("popnorm_constant_input"))
def test_popnorm_of_a_constant_input_is_its_bias_as_in_the_original(path: Path) -> None:
    case = load(path)
    norm = PopNorm(case["x"].shape[1:])
    y = norm(tensor(case["x"])).detach()
    torch.testing.assert_close(y, tensor(case["y"]), rtol=0, atol=1e-6)
    assert torch.equal(y, torch.zeros_like(y))


@pytest.mark.parametrize("path", cases("pdbatchnorm2d_*"))
def test_batchnorm_and_its_running_statistics_are_the_originals(path: Path) -> None:
    case = load(path)
    norm = BatchNorm(case["x"].shape[2:], eps=float(case["eps"]), momentum=float(case["momentum"]))
    nn.init.constant_(norm.bias, float(case["mean"]))
    x = tensor(case["x"]).requires_grad_()
    loss = torch.zeros(())
    for call in range(4):
        norm.train(call < 3)
        y = norm(x[call].unsqueeze(0)).squeeze(0)
        loss = loss + (tensor(case["w"])[call] * y).sum()
        torch.testing.assert_close(y.detach(), tensor(case["y"])[call], rtol=1e-5, atol=1e-5)
        for name in ("running_mean", "running_var"):
            expected = tensor(case[name])[call]
            torch.testing.assert_close(norm.get_buffer(name), expected, rtol=1e-5, atol=1e-6)
    loss.backward()
    assert_relative(x.grad, tensor(case["dloss_dx"]))
    assert_relative(norm.weight.grad, tensor(case["dloss_dweight"]))
    assert_relative(norm.bias.grad, tensor(case["dloss_dbias"]))


@pytest.mark.parametrize(("v_threshold", "v_reset"), [(1.0, 0.0), (0.5, 0.0), (1.0, -0.25)])
def test_popnorm_spreads_each_sample_and_step_between_reset_and_threshold(
    v_threshold: float, v_reset: float
) -> None:
    x = random(3, 4, 2, 5, 5)
    y = PopNorm((2, 5, 5), v_threshold=v_threshold, v_reset=v_reset).double()(x).flatten(2)
    var = x.flatten(2).var(2, correction=0)
    torch.testing.assert_close(y.mean(2), torch.full((3, 4), v_reset, dtype=torch.float64))
    expected = (v_threshold - v_reset) ** 2 * var / (var + 1e-5)
    torch.testing.assert_close(y.var(2, correction=0), expected)


def test_popnorm_is_the_same_in_training_and_evaluation_and_per_sample() -> None:
    norm, x = PopNorm((2, 5, 5)).double(), random(3, 4, 2, 5, 5)
    y = norm(x)
    assert torch.equal(y, norm.eval()(x))
    torch.testing.assert_close(norm(x[1:2, 2:3]), y[1:2, 2:3])
    assert torch.equal(norm(x, repeats=9), y)
    torch.testing.assert_close(norm(x.flatten(0, 1)), y.flatten(0, 1))


def test_popnorm_has_one_weight_and_bias_per_element() -> None:
    norm = PopNorm((2, 5, 5), v_threshold=1, v_reset=-1)
    assert [(n, tuple(p.shape)) for n, p in norm.named_parameters()] == [
        ("weight", (2, 5, 5)),
        ("bias", (2, 5, 5)),
    ]
    assert norm.weight.unique().tolist() == [2.0]
    assert norm.bias.unique().tolist() == [-1.0]


def test_batchnorm_has_one_weight_and_bias_per_channel() -> None:
    norm = BatchNorm((3, 5, 5), v_threshold=1, v_reset=-1)
    assert {n: tuple(p.shape) for n, p in norm.named_parameters()} == {"weight": (3,), "bias": (3,)}
    assert norm.weight.unique().tolist() == [2.0]
    assert norm.bias.unique().tolist() == [-1.0]
    assert set(dict(norm.named_buffers())) == {"running_mean", "running_var"}


def test_nonorm_is_the_identity_without_parameters() -> None:
    norm, x = NoNorm((2, 5, 5), v_threshold=0.5), random(3, 4, 2, 5, 5)
    assert torch.equal(norm(x, repeats=2), x)
    assert not norm.state_dict()


SHAPES = pytest.mark.parametrize(
    ("shape", "reference"),
    [((3, 5, 5), nn.BatchNorm2d), ((7,), nn.BatchNorm1d)],
)


def assert_same_statistics(norm: BatchNorm, reference: nn.Module) -> None:
    for name in ("running_mean", "running_var"):
        expected = reference.get_buffer(name)
        torch.testing.assert_close(norm.get_buffer(name), expected, rtol=1e-12, atol=1e-12)


@SHAPES
def test_batchnorm_in_training_takes_each_steps_own_statistics_and_updates_once_a_step(
    shape: tuple[int, ...], reference: Callable[[int], nn.Module]
) -> None:
    norm, torchs = BatchNorm(shape).double(), reference(shape[0]).double()
    x = random(4, 6, *shape)
    expected = torch.stack([torchs(step) for step in x])
    torch.testing.assert_close(norm(x), expected, rtol=1e-10, atol=1e-10)
    assert_same_statistics(norm, torchs)


@SHAPES
def test_batchnorm_over_time_takes_all_steps_together_and_updates_once(
    shape: tuple[int, ...], reference: Callable[[int], nn.Module]
) -> None:
    norm, torchs = BatchNorm(shape, over_time=True).double(), reference(shape[0]).double()
    x = random(4, 6, *shape)
    expected = torchs(x.flatten(0, 1)).view_as(x)
    torch.testing.assert_close(norm(x), expected, rtol=1e-10, atol=1e-10)
    assert_same_statistics(norm, torchs)


@SHAPES
@pytest.mark.parametrize("over_time", [False, True])
@pytest.mark.parametrize("repeats", [1, 2, 16])
def test_batchnorm_of_a_repeated_entry_equals_the_repetition(
    shape: tuple[int, ...], reference: Callable[[int], nn.Module], over_time: bool, repeats: int
) -> None:
    once = BatchNorm(shape, over_time=over_time).double()
    repeated = copy.deepcopy(once)
    x = random(1, 6, *shape)
    y = repeated(x.repeat(repeats, *[1] * (x.dim() - 1)))
    torch.testing.assert_close(once(x, repeats=repeats).expand_as(y), y, rtol=1e-10, atol=1e-10)
    assert_same_statistics(once, repeated)
    assert not torch.equal(once.running_mean, torch.zeros_like(once.running_mean))


@SHAPES
@pytest.mark.parametrize("over_time", [False, True])
def test_batchnorm_in_evaluation_uses_the_running_statistics_and_leaves_them(
    shape: tuple[int, ...], reference: Callable[[int], nn.Module], over_time: bool
) -> None:
    norm, torchs = BatchNorm(shape, over_time=over_time).double(), reference(shape[0]).double()
    for name in ("running_mean", "running_var"):
        norm.get_buffer(name).copy_(random(shape[0], seed=5).abs())
        torchs.get_buffer(name).copy_(norm.get_buffer(name))
    norm.eval()
    torchs.eval()
    x = random(4, 6, *shape)
    expected = torchs(x.flatten(0, 1)).view_as(x)
    torch.testing.assert_close(norm(x), expected, rtol=1e-10, atol=1e-10)
    assert_same_statistics(norm, torchs)


def test_batchnorm_over_time_differs_from_per_step() -> None:
    x = random(4, 6, 3, 5, 5) * torch.arange(1, 5).view(4, 1, 1, 1, 1)
    per_step, over_time = BatchNorm((3, 5, 5)).double(), BatchNorm((3, 5, 5), over_time=True)
    assert not torch.allclose(per_step(x), over_time.double()(x), atol=0.1)


@pytest.mark.parametrize("cls", [PopNorm, BatchNorm])
def test_refuses_a_negative_eps(cls: Callable[..., Norm]) -> None:
    with pytest.raises(Refused) as error:
        cls((3,), eps=-1.0)
    assert (error.value.key, error.value.value) == ("eps", -1.0)


@pytest.mark.parametrize("momentum", [0.0, -0.1, 1.5])
def test_refuses_a_momentum_outside_its_range(momentum: float) -> None:
    with pytest.raises(Refused) as error:
        BatchNorm((3,), momentum=momentum)
    assert (error.value.key, error.value.value) == ("momentum", momentum)
