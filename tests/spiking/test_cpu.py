"""The compiled kernels of norm and neuron are the reference, to rounding.

Sums of a normalization may come out in another order, so a membrane that lies within 1e-5 of the
threshold may fire here and not there; everything behind it then differs. The tests draw currents
for which none does, and say so if one should.
"""

import errno
import runpy
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any

import numba
import pytest
import torch
from numba.core.caching import IndexDataCacheFile
from pytest import MonkeyPatch
from torch import Tensor, nn

from sdqn_lab.checks.refused import Refused
from sdqn_lab.networks.blocks import Block
from sdqn_lab.spiking.kernels import cpu, jit
from sdqn_lab.spiking.neuron import ALIF, CODES, IF, LIF, PLIF, SpikingNeuron
from sdqn_lab.spiking.norm import BatchNorm, NoNorm, PopNorm
from sdqn_lab.spiking.surrogate import Atan, Gate, Surrogate
from tests.compiled import fingerprints_twice

SHAPE = (6, 5, 3)
STEPS, BATCH = 7, 4
NEURONS: dict[str, Callable[..., SpikingNeuron]] = {
    "lif": LIF,
    "lif, no memory": lambda **extra: LIF(tau=1.0, **extra),
    "lif, reset below rest": lambda **extra: LIF(tau=1.3, v_threshold=0.6, v_reset=-0.25, **extra),
    "lif, soft": lambda **extra: LIF(tau=1.5, reset="soft", **extra),
    "if": lambda **extra: IF(v_threshold=2, **extra),  # an integer is as good
    "if, soft": lambda **extra: IF(reset="soft", v_threshold=0.7, **extra),
}


def currents(*, constant: bool, channels_last: bool, batch: int = BATCH) -> Tensor:
    random = torch.Generator().manual_seed(3)
    x = 1.5 * torch.randn(1 if constant else STEPS, batch, *SHAPE, generator=random) + 0.7
    if channels_last:
        x = x.flatten(0, 1).contiguous(memory_format=torch.channels_last).view(x.shape)
    return x.requires_grad_()


def norm_of(name: str) -> nn.Module:
    random = torch.Generator().manual_seed(4)
    if name == "none":
        return NoNorm(SHAPE)
    norm = PopNorm(SHAPE)
    for parameter in norm.parameters():
        parameter.data += 0.3 * torch.randn(SHAPE, generator=random)
    return norm


def block(neuron: SpikingNeuron, norm: nn.Module) -> Block:
    """Norm and neuron of a layer whose map changes nothing."""
    return Block(nn.Identity(), norm, neuron)


def run(
    neuron: SpikingNeuron, norm: nn.Module, x: Tensor, backend: Any
) -> tuple[Tensor, list[Tensor]]:
    """Spikes, and gradients of the currents and of the norm's parameters."""
    neuron.backend = backend
    x.grad = None
    norm.zero_grad()
    spikes = block(neuron, norm)(x, STEPS)
    direction = torch.randn(spikes.shape, generator=torch.Generator().manual_seed(5))
    (spikes * direction).sum().backward()
    return spikes.detach(), [t.grad.clone() for t in (x, *norm.parameters()) if t.grad is not None]


def assert_equal(fast: tuple[Tensor, list[Tensor]], slow: tuple[Tensor, list[Tensor]]) -> None:
    assert 0.02 < slow[0].mean() < 0.98
    assert torch.equal(fast[0], slow[0]), "a membrane at the threshold; draw other currents"
    assert len(fast[1]) == len(slow[1])
    for ours, theirs in zip(fast[1], slow[1], strict=True):
        assert theirs.abs().max() > 0
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5 * theirs.abs().max().item())


@pytest.mark.parametrize("norm", ["none", "popnorm"])
@pytest.mark.parametrize("detach_reset", [True, False])
@pytest.mark.parametrize("surrogate", CODES, ids=[cls.__name__ for cls in CODES])
@pytest.mark.parametrize("neuron", NEURONS)
def test_equals_the_reference_in_spikes_and_all_gradients(
    neuron: str, surrogate: type[Surrogate], detach_reset: bool, norm: str
) -> None:
    layer = NEURONS[neuron](surrogate=surrogate(alpha=0.8), detach_reset=detach_reset)
    x, scale = currents(constant=False, channels_last=False), norm_of(norm)
    assert_equal(run(layer, scale, x, "auto"), run(layer, scale, x, "reference"))


@pytest.mark.parametrize("norm", ["none", "popnorm"])
@pytest.mark.parametrize("batch", [1, 4, 37])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("constant", [False, True])
def test_equals_the_reference_in_every_layout(
    constant: bool, channels_last: bool, batch: int, norm: str
) -> None:
    layer, scale = LIF(tau=1.5), norm_of(norm)
    x = currents(constant=constant, channels_last=channels_last, batch=batch)
    assert_equal(run(layer, scale, x, "auto"), run(layer, scale, x, "reference"))


@pytest.mark.parametrize("shape", [(4,), (4, 2), (4, 2, 3), (4, 0, 3), (4, 2, 0)])
def test_currents_of_any_shape_give_spikes_of_that_shape(shape: tuple[int, ...]) -> None:
    assert torch.equal(LIF()(torch.full(shape, 3.0)), torch.ones(shape))


def test_images_with_channels_last_give_spikes_with_channels_last() -> None:
    spikes = LIF()(currents(constant=False, channels_last=True))
    assert spikes.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("batch", [1, 2, 37])
def test_the_number_of_threads_changes_no_bit(batch: int, monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "GRAIN", 1)
    layer, norm = LIF(), norm_of("popnorm")
    x = currents(constant=False, channels_last=False, batch=batch)
    torch.set_num_threads(1)
    alone = run(layer, norm, x, "auto")
    torch.set_num_threads(3)
    shared = run(layer, norm, x, "auto")
    assert torch.equal(alone[0], shared[0])
    assert all(torch.equal(a, b) for a, b in zip(alone[1], shared[1], strict=True))


def test_what_a_thread_raises_is_raised() -> None:
    def work(first: int, last: int) -> None:
        if last == cpu.CHUNKS:
            raise MemoryError

    with pytest.raises(MemoryError):
        jit.parallel_for(work, chunks=cpu.CHUNKS, threads=2)


def test_every_chunk_is_worked_off_once_where_threads_cannot_be_started(
    monkeypatch: MonkeyPatch,
) -> None:
    refused: list[object] = []

    def start(thread: threading.Thread) -> None:
        refused.append(thread)
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(jit, "THREADS", ThreadPoolExecutor())
    monkeypatch.setattr(threading.Thread, "start", start)
    done: list[int] = []
    jit.parallel_for(lambda first, last: done.extend(range(first, last)), 8, threads=4)
    assert sorted(done) == list(range(8))
    assert refused


@pytest.mark.parametrize("surrogate", [cls for cls in CODES if cls is not Gate])
def test_a_current_that_is_no_number_never_fires_and_spoils_its_own_unit_alone(
    surrogate: type[Surrogate],
) -> None:
    x = torch.full((3, 1, 2), 5.0)
    x[0, 0, 0] = torch.nan
    x.requires_grad_()
    spikes = LIF(surrogate=surrogate())(x)
    spikes.sum().backward()
    assert x.grad is not None
    assert spikes[:, 0, 0].tolist() == [0, 0, 0]
    assert spikes[:, 0, 1].tolist() == [1, 1, 1]
    assert x.grad[:, 0, 0].isnan().all()
    assert x.grad[:, 0, 1].isfinite().all()


def test_parameters_that_need_no_gradient_get_none() -> None:
    norm = norm_of("popnorm").requires_grad_(False)
    x = currents(constant=True, channels_last=False)
    block(LIF(), norm)(x, STEPS).sum().backward()
    assert x.grad is not None
    assert [parameter.grad for parameter in norm.parameters()] == [None, None]


class Steeper(Atan):
    """A user's own surrogate: its name and derivative are no kernel's."""

    def derivative(self, x: Tensor) -> Tensor:
        return 2 * super().derivative(x)


@pytest.mark.parametrize(
    ("neuron", "norm", "dtype"),
    [
        (LIF(surrogate=Steeper()), PopNorm((3,)), torch.float32),
        (LIF(), PopNorm((3,)).double(), torch.float64),
        (LIF(), BatchNorm((3,)), torch.float32),
        (PLIF(), PopNorm((3,)), torch.float32),
    ],
    ids=["own surrogate", "double", "batch norm", "learned slope"],
)
def test_layers_without_a_kernel_take_the_form_that_they_have(
    neuron: SpikingNeuron, norm: nn.Module, dtype: torch.dtype
) -> None:
    x = torch.randn(5, 4, 3, dtype=dtype, generator=torch.Generator().manual_seed(0)) + 1
    x.requires_grad_()
    results = []
    for backend in ("auto", "reference"):
        neuron.backend = backend  # type: ignore[assignment]
        x.grad = None
        spikes = block(neuron, norm)(x, 5)
        (spikes * torch.arange(3)).sum().backward()
        assert x.grad is not None
        results.append((spikes.detach(), x.grad))
    (fast, fast_grad), (slow, slow_grad) = results
    assert torch.equal(fast, slow)
    torch.testing.assert_close(fast_grad, slow_grad, rtol=1e-5, atol=1e-6)


def test_a_setting_that_changes_later_counts() -> None:
    layer, x = LIF(), torch.full((1, 1, 1), 1.5)
    assert layer(x).item() == 0
    layer.v_threshold = 0.5
    assert layer(x).item() == 1
    layer.surrogate = replace(layer.surrogate, alpha=3.0)
    x.requires_grad_()
    layer(x).sum().backward()
    assert x.grad is not None
    # the slope of the arc tangent at 0.75 - 0.5, times that of the charge
    assert x.grad.item() == pytest.approx(0.5 * 1.5 / (1 + (1.5 * torch.pi * 0.25) ** 2))


@pytest.mark.parametrize("tau", [1.0, 1.7, 2.0, 3.7, 7.0])
def test_a_constant_current_at_the_threshold_never_fires(tau: float) -> None:
    assert not LIF(tau=tau, v_threshold=0.7)(torch.full((200, 1, 1), 0.7)).any()


class Inherited(LIF):
    """Its charge is not the one whose slopes it inherits."""

    def charge(self, x: Tensor, v: Tensor) -> Tensor:
        return v + 0.1 * x


class Twice(LIF):
    def step(self, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        spike, v = super().step(x, v)
        return 2 * spike, v


class Learned(LIF):
    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.5))

    @property
    def slopes(self) -> tuple[Any, Any]:
        return self.gain, 1 - self.gain

    def charge(self, x: Tensor, v: Tensor) -> Tensor:
        return v + (x - v) * self.gain


@pytest.mark.parametrize(
    "neuron", [Inherited, Twice, Learned, PLIF, ALIF, partial(LIF, learn_threshold="channel")]
)
def test_a_class_that_names_no_constant_slopes_itself_takes_the_reference(
    neuron: Callable[[], SpikingNeuron],
) -> None:
    layer, x = neuron(), torch.full((6, 1, 1), 3.0, requires_grad=True)
    assert not layer.fusible
    spikes = block(layer, NoNorm((1,)))(x, 6)
    assert torch.equal(spikes, layer.reference(x))
    spikes.sum().backward()
    assert x.grad is not None
    assert all(parameter.grad is not None for parameter in layer.parameters())


class Named(LIF):
    """Says that the slopes of its class are those of its charge."""

    slopes = LIF.slopes


def test_a_class_that_names_its_slopes_takes_the_kernels() -> None:
    assert Named().fusible
    layer, norm, x = Named(), norm_of("popnorm"), currents(constant=False, channels_last=False)
    assert_equal(run(layer, norm, x, "auto"), run(layer, norm, x, "reference"))


def test_the_reference_is_selectable() -> None:
    layer, x = LIF(), torch.ones(4, 1, 2, requires_grad=True)
    assert type(layer(x).grad_fn).__name__ == "FusedLayerBackward"
    layer.backend = "reference"
    assert not layer.fusible
    assert type(layer(x).grad_fn).__name__ == "StackBackward0"


@pytest.mark.parametrize("alone", [True, False])
def test_a_constant_input_may_be_a_view_and_collects_the_gradient_of_all_steps(
    alone: bool,
) -> None:
    layer, random = LIF(), torch.Generator().manual_seed(2)
    x = (2 * torch.rand(1, 3, 20, generator=random)).requires_grad_()
    weight = torch.randn(6, 3, 20, generator=random)
    spikes = layer(x.expand(6, 3, 20)) if alone else block(layer, NoNorm((20,)))(x, 6)
    (fused,) = torch.autograd.grad((spikes * weight).sum(), x)
    (slow,) = torch.autograd.grad((layer.reference(x.expand(6, 3, 20)) * weight).sum(), x)
    torch.testing.assert_close(fused, slow, rtol=1e-5, atol=1e-6)


def test_without_gradient_nothing_is_kept() -> None:
    assert LIF()(torch.ones(4, 1, 2)).grad_fn is None


def test_a_norm_that_does_not_fit_is_refused_as_by_torch() -> None:
    with pytest.raises(RuntimeError, match="normalized_shape"):
        block(LIF(), PopNorm((3,)))(torch.ones(2, 3, 5), 2)
    with pytest.raises(RuntimeError):
        block(LIF(), PopNorm((5,)).double())(torch.ones(2, 3, 5), 2)


def test_a_norm_over_the_last_dimensions_alone_is_left_to_torch() -> None:
    x = torch.randn(1, 4, 2, 3, generator=torch.Generator().manual_seed(0))
    layer = block(LIF(), PopNorm((3,)))
    fast = layer(x, 5)
    layer.neuron.backend = "reference"
    assert torch.equal(fast, layer(x, 5))


@pytest.mark.parametrize("part", ["norm", "neuron"])
@pytest.mark.parametrize("kind", ["forward", "forward_pre", "full_backward", "full_backward_pre"])
def test_hooks_on_norm_and_neuron_are_called(kind: str, part: str) -> None:
    layer, seen = block(LIF(), PopNorm((5,))), []
    register = getattr(layer.get_submodule(part), f"register_{kind}_hook")
    register(lambda *_: seen.append(1))
    layer(torch.ones(1, 3, 5, requires_grad=True), 4).sum().backward()
    assert seen == [1]


@pytest.mark.parametrize("entries", [2, 3, 5])
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_inputs_for_another_time_window_are_refused(entries: int, backend: Any) -> None:
    layer = block(LIF(), NoNorm((1,)))
    layer.neuron.backend = backend
    with pytest.raises(Refused) as error:
        layer(torch.ones(entries, 1, 1), 4)
    assert (error.value.key, error.value.value) == ("x_seq", entries)


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: MonkeyPatch) -> Callable[[], float]:
    """Imports a small kernel anew, as a new process would, and runs it."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    source = "from sdqn_lab.spiking.kernels.jit import jit\n@jit\ndef tiny(x):\n    return x + 1\n"
    (tmp_path / "tiny.py").write_text(source)

    def run_anew() -> float:
        return float(runpy.run_path(str(tmp_path / "tiny.py"))["tiny"](2.0))

    return run_anew


def test_code_on_disk_that_is_damaged_is_compiled_anew(
    tiny: Callable[[], float], tmp_path: Path
) -> None:
    assert tiny() == 3.0
    files = list(tmp_path.rglob("*.nb?"))
    assert {file.suffix for file in files} == {".nbi", ".nbc"}
    for file in files:
        file.write_bytes(file.read_bytes()[:20])
    assert tiny() == 3.0


def test_code_that_cannot_be_kept_on_disk_runs(
    tiny: Callable[[], float], monkeypatch: MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(IndexDataCacheFile, "save", full)
    assert tiny() == 3.0


def fingerprints() -> Iterator[str]:
    """One per layer, of its spikes and gradients; rows are no multiples of a vector register."""
    random = torch.Generator().manual_seed(6)
    choices = product((7, 803), NEURONS, CODES, (False, True), (NoNorm, PopNorm))
    for units, neuron, surrogate, detach_reset, norm in choices:
        x = 1.5 * torch.randn(STEPS, BATCH, units, generator=random) + 0.7
        layer = NEURONS[neuron](surrogate=surrogate(alpha=0.8), detach_reset=detach_reset)
        spikes, gradients = run(layer, norm((units,)), x.requires_grad_(), "auto")
        numbers = b"".join(tensor.numpy().tobytes() for tensor in (spikes, *gradients))
        name = f"{neuron}, {surrogate.__name__}, {detach_reset=}, {norm.__name__}({units})"
        yield f"{name}: {sha256(numbers).hexdigest()}"


@pytest.mark.slow  # each of its processes compiles
def test_code_from_disk_computes_the_bits_of_the_process_that_compiled_it(tmp_path: Path) -> None:
    compiled, loaded = fingerprints_twice("tests.spiking.test_cpu", tmp_path)
    assert compiled == loaded == list(fingerprints())
