"""Under a constant current a layer and the map behind it are what both are one after the other."""

from collections.abc import Callable, Iterator

import pytest
import torch
from pytest import MonkeyPatch
from torch import Tensor, nn

from sdqn_lab.networks import blocks
from sdqn_lab.networks.blocks import Block, run_blocks
from sdqn_lab.spiking.kernels import sparse
from sdqn_lab.spiking.kernels.periodic import find_first_spikes, periodic_map
from sdqn_lab.spiking.neuron import IF, LIF, SpikingNeuron
from sdqn_lab.spiking.norm import NoNorm, PopNorm
from sdqn_lab.spiking.stats import SpikeRecorder

STEPS, BATCH, SHAPE = 7, 9, (3, 11, 8)
MAPS: dict[str, Callable[[], nn.Module]] = {
    "convolution": lambda: nn.Conv2d(3, 40, 3),
    "with a stride that leaves pixels over": lambda: nn.Conv2d(3, 32, (4, 3), stride=(2, 3)),
    "with a stride beyond its kernel": lambda: nn.Conv2d(3, 5, 2, stride=3, bias=False),
    "as large as the image": lambda: nn.Conv2d(3, 33, (11, 8)),
    "fully connected": lambda: nn.Linear(264, 50),
    "fully connected without bias": lambda: nn.Linear(264, 16, bias=False),
}
NEURONS: dict[str, Callable[[], SpikingNeuron]] = {
    "lif": LIF,
    "lif with a gradient through its reset": lambda: LIF(tau=3.0, detach_reset=False),
    "lif from another rest": lambda: LIF(v_reset=-0.5, v_threshold=0.5),
    "if": IF,
}


@pytest.fixture(autouse=True)
def small_maps_are_taken_too(monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setattr(sparse, "MIN_WORK", 0)
    monkeypatch.setattr(sparse, "MIN_ROWS", 0)
    monkeypatch.setattr(sparse, "GRAIN", 1)


@pytest.fixture
def taken(monkeypatch: MonkeyPatch) -> Iterator[list[bool]]:
    """Whether layer and map were worked off together, pair after pair."""
    seen: list[bool] = []

    def watched(*given: object) -> Tensor | None:
        y = periodic_map(*given)  # type: ignore[arg-type]
        seen.append(y is not None)
        return y

    monkeypatch.setattr(blocks, "periodic_map", watched)
    yield seen


def pair(name: str, neuron: str = "lif", normalize: bool = True) -> list[Block]:
    torch.manual_seed(2)
    linear = MAPS[name]()
    first_norm = PopNorm(SHAPE) if normalize else NoNorm(SHAPE)
    if normalize:
        nn.init.uniform_(first_norm.weight, 0.5, 1.5)
        nn.init.uniform_(first_norm.bias, -0.5, 0.5)
    shape = linear(torch.zeros(1, 264) if isinstance(linear, nn.Linear) else torch.zeros(1, *SHAPE))
    second = Block(linear, NoNorm(tuple(shape.shape[1:])), LIF(v_threshold=0.1))
    return [Block(nn.Identity(), first_norm, NEURONS[neuron]()), second]


def currents(*, channels_last: bool = True) -> Tensor:
    x = torch.randn(BATCH, *SHAPE, generator=torch.Generator().manual_seed(1))
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    return x[None].requires_grad_()


def results(layers: list[Block], x: Tensor, run: Callable[[], Tensor]) -> list[Tensor]:
    """Activity, and the gradients of input and parameters under one gradient of the activity."""
    activity = run()
    grad = torch.randn(activity.shape, generator=torch.Generator().manual_seed(3))
    leaves = [x, *(p for layer in layers for p in layer.parameters())]
    return [activity.detach(), *torch.autograd.grad(activity, leaves, grad)]


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("neuron", NEURONS)
@pytest.mark.parametrize("name", MAPS)
def test_activity_and_gradients_are_those_of_the_plain_steps(
    name: str, neuron: str, normalize: bool, taken: list[bool]
) -> None:
    layers, x = pair(name, neuron, normalize), currents()
    found = results(layers, x, lambda: run_blocks(layers, x, STEPS))
    assert taken == [True]
    for layer in layers:
        layer.neuron.backend = "reference"
    expected = results(layers, x, lambda: layers[1](layers[0](x, STEPS), STEPS))
    assert 0 < expected[0].mean() < 0.5
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["convolution", "fully connected"])
def test_images_may_lie_in_either_order(name: str, taken: list[bool]) -> None:
    layers, found = pair(name), []
    for channels_last in (True, False):
        x = currents(channels_last=channels_last)
        found.append(results(layers, x, lambda x=x: run_blocks(layers, x, STEPS)))  # type: ignore[misc]
    assert taken == [True, True]
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_a_unit_is_in_the_class_of_the_step_in_which_it_first_fires() -> None:
    layer = IF(v_threshold=1.0).kernel_constants()
    assert layer is not None
    # 1.5 > 1; 2 * 0.75 > 1; 3 * 0.5 > 1, not 2 * 0.5; 5 * 0.25 > 1, beyond four steps; never.
    x = torch.tensor([[1.5, 0.75, 0.5, 0.25, -1.0]]).numpy()
    none = torch.empty(0).numpy()
    assert find_first_spikes(x, none, none, 4, layer)[0].tolist() == [[1, 2, 3, 0, 0]]
    assert find_first_spikes(x, none, none, 5, layer)[0].tolist() == [[1, 2, 3, 5, 0]]


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_map_sums_its_weights_at_the_multiples_of_the_first_spikes_step(precision: str) -> None:
    layer, linear = IF(v_threshold=1.0).kernel_constants(), nn.Linear(3, 2)
    assert layer is not None
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    x = torch.tensor([[[0.75, 0.5, -1.0]]])  # the first fires at 2 and 4, the second at 3
    y = periodic_map(x, (None, None), 4, layer, linear, dtype)
    first, second, _ = linear.weight.detach().to(dtype).float().T
    bias = linear.bias.detach().to(dtype).float()
    expected = torch.stack([bias, bias + first, bias + second, bias + first])[:, None]
    assert y is not None and torch.equal(y, expected.to(dtype).float())


@pytest.mark.parametrize(
    ("neuron", "linear", "entries", "steps"),
    [
        (LIF(reset="soft"), nn.Linear(264, 4), 1, 4),
        (LIF(), nn.Linear(264, 4), 4, 4),
        (LIF(), nn.Linear(264, 4), 1, 1),
        (LIF(), nn.Linear(264, 4), 1, 256),
        (LIF(), nn.Linear(200, 4), 1, 4),
        (LIF(), nn.Conv2d(3, 4, 3, padding=1), 1, 4),
        (LIF(), nn.Identity(), 1, 4),
    ],
    ids=str,
)
def test_what_is_not_periodic_or_no_such_map_is_left_to_the_layers(
    neuron: LIF, linear: nn.Module, entries: int, steps: int
) -> None:
    layer = neuron.kernel_constants()
    assert layer is not None
    x = currents().expand(entries, -1, -1, -1, -1)
    assert periodic_map(x, (None, None), steps, layer, linear) is None


@pytest.mark.parametrize(("steps", "fits"), [(2, False), (5, True)])
def test_many_units_that_fire_are_left_to_the_dense_map_unless_it_would_run_as_often(
    steps: int, fits: bool, taken: list[bool]
) -> None:
    layers = pair("convolution", "if", normalize=False)
    x = currents().detach().abs() + 2  # every unit fires at each step
    expected = layers[1](layers[0](x, steps), steps)
    torch.testing.assert_close(run_blocks(layers, x, steps), expected)
    assert taken == [fits]


HOOKS: dict[str, Callable[[list[Block]], nn.Module]] = {
    "first": lambda layers: layers[0],
    "first neuron": lambda layers: layers[0].neuron,
    "second": lambda layers: layers[1],
    "second map": lambda layers: layers[1].linear,
}


@pytest.mark.parametrize("hooked", HOOKS)
def test_whoever_hooks_a_layer_sees_it_called(hooked: str, taken: list[bool]) -> None:
    layers, x, seen = pair("convolution"), currents(), []
    expected = run_blocks(layers, x, STEPS)
    assert taken.pop()
    HOOKS[hooked](layers).register_forward_hook(lambda *given: seen.append(given[2]))
    found = run_blocks(layers, x, STEPS)
    assert len(seen) == 1 and True not in taken
    torch.testing.assert_close(found, expected)


def test_a_recorder_counts_the_spikes_of_a_layer_whose_activity_is_not_written(
    taken: list[bool],
) -> None:
    layers, x = nn.Sequential(*pair("convolution")), currents()
    plain = [layers[0](x, STEPS)]
    with SpikeRecorder(layers) as recorder:
        run_blocks(list(layers), x, STEPS)  # type: ignore[arg-type]
    assert taken == []
    assert recorder.layers()["0"].firing_rate == pytest.approx(plain[0].mean().item())


def test_a_layer_of_another_class_is_called(taken: list[bool]) -> None:
    class Doubled(Block):
        def forward(self, x_seq: Tensor, time_window: int) -> Tensor:
            return 2 * super().forward(x_seq, time_window)

    layers, x = pair("convolution"), currents()
    layers[0] = Doubled(layers[0].linear, layers[0].norm, layers[0].neuron)
    expected = layers[1](layers[0](x, STEPS), STEPS)
    torch.testing.assert_close(run_blocks(layers, x, STEPS), expected)
    assert taken == []


@pytest.mark.parametrize("name", MAPS)
def test_the_number_of_threads_changes_no_bit_of_activity_and_weights(name: str) -> None:
    found = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        layers, x = pair(name), currents()
        activity, _, *others = results(layers, x, lambda: run_blocks(layers, x, STEPS))  # noqa: B023
        found.append([activity, *others[2:]])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_gradients_part_by_part_are_those_at_once(monkeypatch: MonkeyPatch) -> None:
    layers, x = pair("convolution"), currents()
    expected = results(layers, x, lambda: run_blocks(layers, x, STEPS))
    # Room for two samples; the last part holds one.
    monkeypatch.setattr("sdqn_lab.spiking.kernels.periodic.ROOM", 2 * STEPS * 264)
    found = results(layers, x, lambda: run_blocks(layers, x, STEPS))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
