"""Maps of spikes without their zeros are the maps, to rounding."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from pytest import MonkeyPatch
from torch import Tensor, nn
from torch.nn.utils import prune

from sdqn_lab.networks.blocks import Block
from sdqn_lab.spiking.kernels import sparse
from sdqn_lab.spiking.kernels.sparse import KernelShape, sparse_linear
from sdqn_lab.spiking.neuron import LIF, ReLU
from sdqn_lab.spiking.norm import NoNorm

IMAGE = (3, 11, 8)
MAPS: dict[str, Callable[[], nn.Module]] = {
    "convolution": lambda: nn.Conv2d(3, 40, 3),
    "with a stride that leaves pixels over": lambda: nn.Conv2d(3, 32, (4, 3), stride=(2, 3)),
    "with few outputs and no bias": lambda: nn.Conv2d(3, 5, 2, bias=False),
    "as large as the image": lambda: nn.Conv2d(3, 33, (11, 8)),
    "fully connected": lambda: nn.Linear(264, 50),
    "fully connected without bias": lambda: nn.Linear(264, 16, bias=False),
}


@pytest.fixture(autouse=True)
def small_maps_are_taken_too(monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setattr(sparse, "MIN_WORK", 0)
    monkeypatch.setattr(sparse, "MIN_ROWS", 0)
    monkeypatch.setattr(sparse, "GRAIN", 1)


def spikes(*shape: int, channels_last: bool = False, rate: float = 0.1) -> Tensor:
    draws = torch.rand(shape, generator=torch.Generator().manual_seed(1))
    fired = (draws < rate).float()
    if channels_last:
        fired = fired.contiguous(memory_format=torch.channels_last)
    return fired.requires_grad_()


def made(name: str) -> nn.Module:
    torch.manual_seed(2)
    return MAPS[name]()


def results(linear: nn.Module, x: Tensor, run: Callable[[Tensor], Tensor | None]) -> list[Tensor]:
    """The sums, and the gradients of inputs and parameters under one gradient of the sums."""
    y = run(x)
    assert y is not None
    draws = torch.Generator().manual_seed(3)
    grad = torch.randn(y.shape, generator=draws, dtype=torch.float64).to(y.dtype)
    return [y.detach(), *torch.autograd.grad(y, [x, *linear.parameters()], grad)]


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("name", MAPS)
def test_sums_and_gradients_are_those_of_the_dense_map(name: str, channels_last: bool) -> None:
    linear = made(name)
    x = spikes(20, *IMAGE, channels_last=channels_last)
    found = results(linear, x, lambda x: sparse_linear(linear, x))
    exact = linear.double()
    wide = x.detach().double().requires_grad_()
    flat = isinstance(linear, nn.Linear)
    expected = results(exact, wide, lambda x: exact(x.flatten(1) if flat else x))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=1e-5)


def test_a_spike_adds_its_weights_and_silence_leaves_the_bias() -> None:
    linear = nn.Conv2d(2, 3, 2, stride=2)
    x = torch.zeros(2, 2, 4, 4)
    x[1, 0, 1, 2] = 1  # in the second image, at the lower left of the kernel of output (0, 1)
    y = sparse_linear(linear, x)
    expected = linear.bias.detach()[None, :, None, None].repeat(2, 1, 2, 2)  # type: ignore[index]
    expected[1, :, 0, 1] += linear.weight.detach()[:, 0, 1, 0]
    assert y is not None and torch.equal(y, expected)


def test_places_are_those_of_the_spikes() -> None:
    x = spikes(6, 5, 4, 3).detach().numpy()  # (N, H, W, C)
    found = sparse.find_spikes(x, threads=1)
    assert found is not None
    for image, row, column in np.ndindex(6, 5, 4):
        begin, end = found.starts[image, row, column : column + 2]
        expected = column * 3 + np.flatnonzero(x[image, row, column])
        assert found.places[image, begin:end].tolist() == expected.tolist()


@pytest.mark.parametrize("place", [0, 100, 263])
@pytest.mark.parametrize("value", [0.5, 2.0, -1.0, -0.0, torch.nan, torch.inf, 1e-45])
def test_what_is_no_spike_is_left_to_the_dense_map(value: float, place: int) -> None:
    x = torch.zeros(5, 264)
    x[4, ::10] = 1
    x[4, place] = value
    assert sparse_linear(nn.Linear(264, 8), x) is None


def test_many_spikes_are_left_to_the_dense_map() -> None:
    linear, x = nn.Linear(100, 8), torch.zeros(10, 100)
    x[:, ::5] = 1
    assert sparse_linear(linear, x) is not None
    x[0, 1] = 1  # now more than one in five
    assert sparse_linear(linear, x) is None


def test_one_crowded_image_among_silent_ones_is_left_to_the_dense_map() -> None:
    linear, x = nn.Linear(100, 8), torch.zeros(10, 100)
    x[3, ::2] = 1
    assert sparse_linear(linear, x) is not None
    x[3, 1] = 1
    assert sparse_linear(linear, x) is None


@pytest.mark.parametrize(
    "linear",
    [
        nn.Conv2d(3, 4, 3, padding=1),
        nn.Conv2d(3, 4, 3, padding="same"),
        nn.Conv2d(3, 4, 3, dilation=2),
        nn.Conv2d(3, 3, 3, groups=3),
        nn.Conv2d(3, 4, 3).double(),
        nn.Identity(),
    ],
    ids=str,
)
def test_other_maps_are_called(linear: nn.Module) -> None:
    assert sparse_linear(linear, spikes(4, *IMAGE)) is None


@pytest.mark.parametrize(
    ("linear", "shape"),
    [
        (nn.Conv2d(2, 4, 3), (4, *IMAGE)),
        (nn.Conv2d(3, 4, 12), (4, *IMAGE)),
        (nn.Conv2d(3, 4, 3), IMAGE),
        (nn.Linear(200, 4, bias=False), (4, 100)),
        (nn.Linear(88, 4), (4, *IMAGE)),
    ],
)
def test_inputs_that_do_not_fit_are_left_to_the_maps_own_error(
    linear: nn.Module, shape: tuple[int, ...]
) -> None:
    assert sparse_linear(linear, spikes(*shape)) is None


HOOKS: dict[str, Callable[[nn.Module], object]] = {
    "forward": lambda linear: linear.register_forward_hook(lambda *_: None),
    "before": lambda linear: linear.register_forward_pre_hook(lambda *_: None),
    "backward": lambda linear: linear.register_full_backward_hook(lambda *_: None),
    "before backward": lambda linear: linear.register_full_backward_pre_hook(lambda *_: None),
    "weights made at each call": lambda linear: prune.l1_unstructured(linear, "weight", 0.5),
    "a forward of its own": lambda linear: setattr(linear, "forward", nn.Conv2d(3, 40, 3).forward),
}


@pytest.mark.parametrize("hook", [None, *HOOKS])
def test_a_map_with_a_hook_is_called(hook: str | None, monkeypatch: MonkeyPatch) -> None:
    skipped: list[object] = []
    find = sparse.find_spikes
    monkeypatch.setattr(sparse, "find_spikes", lambda *given: (skipped.append(1), find(*given))[1])
    block = Block(made("convolution"), NoNorm((40, 9, 6)), LIF())
    if hook:
        HOOKS[hook](block.linear)
    block(spikes(4, *IMAGE)[None], 2)
    assert bool(skipped) == (hook is None)


@pytest.mark.parametrize("shape", [(40, 3, 7, 7), (33, 70, 1, 1), (5, 2, 4, 5), (16, 1, 4, 4)])
def test_a_table_has_a_row_of_weights_for_each_pixel_and_channel(shape: tuple[int, ...]) -> None:
    weight = torch.randn(shape).transpose(0, 1).contiguous().transpose(0, 1)
    table, start = sparse.table_of(weight, None, torch.float32)
    assert table.tolist() == weight.permute(2, 3, 1, 0).flatten().tolist()
    assert start.tolist() == [0] * shape[0]
    assert torch.equal(sparse.from_table(table, torch.Size(shape)), weight)


@pytest.mark.parametrize("name", MAPS)
def test_the_number_of_threads_changes_no_bit_of_sums_and_weights(name: str) -> None:
    linear, x = made(name), spikes(21, *IMAGE, channels_last=True)
    torch.set_num_threads(1)
    alone = results(linear, x, lambda x: sparse_linear(linear, x))
    torch.set_num_threads(3)
    shared = results(linear, x, lambda x: sparse_linear(linear, x))
    assert torch.equal(alone[0], shared[0])
    assert torch.equal(alone[2], shared[2])


@pytest.mark.parametrize("parts", [1, 2, 3, 7])
def test_every_part_of_a_table_is_written_once(parts: int) -> None:
    x = spikes(9, 11, 8, 3).detach().numpy()
    found = sparse.find_spikes(x, threads=1)
    assert found is not None
    grad = np.random.default_rng(4).standard_normal((9, 4, 2, 70), np.float32)
    table = np.zeros((4, 3, 3, 70), np.float32)
    given = grad.reshape(-1), grad.shape, table.reshape(-1)
    chunks = 4 * 3  # lines of the kernel, and groups of 32 outputs
    for part in range(parts):
        share = chunks * part // parts, chunks * (part + 1) // parts
        sparse.scatter_kernel(*found, *given, KernelShape(4, 3, 2, 3), *share)
    expected = np.zeros((4, 3, 3, 70))
    for image, a, b in np.ndindex(9, 4, 2):
        seen = x[image, 2 * a : 2 * a + 4, 3 * b : 3 * b + 3]
        expected += seen[..., None] * grad[image, a, b]
    np.testing.assert_allclose(table, expected, atol=1e-5)


def test_bf16_rounds_weights_results_and_gradients() -> None:
    linear, x = made("convolution"), spikes(20, *IMAGE, channels_last=True)
    found = results(linear, x, lambda x: sparse_linear(linear, x, torch.bfloat16))
    for one in found:
        assert torch.equal(one, one.bfloat16().float())
    # The same factors and gradient, rounded, with exact sums.
    exact = made("convolution").bfloat16().double()
    inputs = x.detach().double().requires_grad_()
    y = exact(inputs)
    draws = torch.Generator().manual_seed(3)
    grad = torch.randn(y.shape, generator=draws, dtype=torch.float64).bfloat16().double()
    expected = [y.detach(), *torch.autograd.grad(y, [inputs, *exact.parameters()], grad)]
    # The gradient of the inputs is torch's own, whose sums are as exact as the processor allows.
    rounded, few = made("convolution").bfloat16(), x.detach().bfloat16().requires_grad_()
    expected[1] = results(rounded, few, rounded)[1]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other.float(), rtol=2**-7, atol=2**-7)


@pytest.mark.parametrize("wanted", ["inputs", "weight", "bias"])
def test_each_gradient_is_there_for_itself(wanted: str) -> None:
    linear, x = made("convolution"), spikes(20, *IMAGE)
    among = {"inputs": x, **dict(linear.named_parameters())}
    every = dict(
        zip(among, results(linear, x, lambda x: sparse_linear(linear, x))[1:], strict=True)
    )
    y = sparse_linear(linear, x)
    assert y is not None
    grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    for name, leaf in among.items():
        leaf.requires_grad_(name == wanted)
    y = sparse_linear(linear, x)
    assert y is not None
    y.backward(grad.float())
    assert [name for name, leaf in among.items() if leaf.grad is not None] == [wanted]
    assert torch.equal(among[wanted].grad, every[wanted])  # type: ignore[arg-type]


def test_nothing_is_kept_for_a_backward_pass_that_nobody_asked_for() -> None:
    linear = made("fully connected")
    with torch.no_grad():
        y = sparse_linear(linear, spikes(20, 264))
    assert y is not None and y.grad_fn is None


def test_sums_may_be_changed_in_place_and_weights_once_inputs_need_no_gradient() -> None:
    linear = made("convolution")
    y = sparse_linear(linear, spikes(20, *IMAGE).detach())
    assert y is not None
    y.mul_(2)
    with torch.no_grad():
        linear.get_parameter("weight").mul_(2)
    y.sum().backward()
    assert linear.get_parameter("weight").grad is not None


@pytest.mark.parametrize("name", ["convolution", "with few outputs and no bias"])
def test_another_default_dtype_changes_nothing(name: str) -> None:
    linear, x = made(name), spikes(20, *IMAGE)
    expected = results(linear, x, lambda x: sparse_linear(linear, x))
    torch.set_default_dtype(torch.float64)
    try:
        found = results(linear, x, lambda x: sparse_linear(linear, x))
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    ("neuron", "backend", "taken"),
    [(LIF(), "auto", 1), (LIF(), "fused", 1), (LIF(), "reference", 0), (ReLU(), "auto", 0)],
)
def test_blocks_of_spiking_neurons_skip_zeros_unless_the_reference_is_asked_for(
    neuron: nn.Module, backend: str, taken: int, monkeypatch: MonkeyPatch
) -> None:
    seen: list[object] = []
    find = sparse.find_spikes
    monkeypatch.setattr(sparse, "find_spikes", lambda *given: (seen.append(1), find(*given))[1])
    neuron.backend = backend  # type: ignore[assignment]
    block = Block(made("fully connected"), NoNorm((50,)), neuron)  # type: ignore[arg-type]
    assert block(spikes(8, *IMAGE).view(2, 4, *IMAGE), 2).shape == (2, 4, 50)
    assert len(seen) == taken
