"""The compiled kernels of norm and neuron are the reference, to rounding.

Sums of a normalization may come out in another order, so a membrane that lies within 1e-5 of the
threshold may fire here and not there; everything behind it then differs. The tests draw currents
for which none does, and say so if one should.
"""

import ast
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from pytest import MonkeyPatch
from torch import Tensor, nn

from sdqn_lab.spiking.kernels import cpu, machine_code
from sdqn_lab.spiking.kernels.layer import SLOPES
from sdqn_lab.spiking.neuron import IF, LIF, PLIF, SpikingNeuron
from sdqn_lab.spiking.norm import BatchNorm, NoNorm, PopNorm
from sdqn_lab.spiking.surrogate import Atan, Gate, Surrogate

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


def run(
    neuron: SpikingNeuron, norm: nn.Module, x: Tensor, backend: Any
) -> tuple[Tensor, list[Tensor]]:
    """Spikes, and gradients of the currents and of the norm's parameters."""
    neuron.backend = backend
    x.grad = None
    norm.zero_grad()
    spikes = neuron(x, norm, STEPS)
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
@pytest.mark.parametrize("surrogate", SLOPES, ids=[cls.__name__ for cls in SLOPES])
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
        machine_code.share(work, chunks=cpu.CHUNKS, threads=2)


def test_every_chunk_is_worked_off_once_where_threads_cannot_be_started(
    monkeypatch: MonkeyPatch,
) -> None:
    started: list[object] = []

    def start(thread: threading.Thread) -> None:
        if started:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        really(thread)

    really = threading.Thread.start
    monkeypatch.setattr(threading.Thread, "start", start)
    machine_code._pool.cache_clear()
    done: list[int] = []
    machine_code.share(lambda first, last: done.extend(range(first, last)), 8, threads=4)
    assert sorted(done) == list(range(8))
    assert started
    machine_code._pool.cache_clear()


@pytest.mark.parametrize("surrogate", [cls for cls in SLOPES if cls is not Gate])
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
    LIF()(x, norm, STEPS).sum().backward()
    assert x.grad is not None
    assert [parameter.grad for parameter in norm.parameters()] == [None, None]


class Twice(Atan):
    """Somebody's own surrogate: its name and derivative are no kernel's."""

    def derivative(self, x: Tensor) -> Tensor:
        return 2 * super().derivative(x)


@pytest.mark.parametrize(
    ("neuron", "norm", "dtype"),
    [
        (LIF(surrogate=Twice()), PopNorm((3,)), torch.float32),
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
        spikes = neuron(x, norm, 5)
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


class Weaker:
    def charge(self, x: Tensor, v: Tensor) -> Tensor:
        return v + 0.1 * x


class Mixed(Weaker, LIF):
    """Its charge is not the one whose slopes it inherits."""


class Silent(LIF):
    def reference(self, x_seq: Tensor) -> Tensor:
        return torch.zeros_like(x_seq)


class Learned(LIF):
    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.5))

    @property
    def slopes(self) -> tuple[Any, Any]:
        return self.gain, 1 - self.gain

    def charge(self, x: Tensor, v: Tensor) -> Tensor:
        return v + (x - v) * self.gain


@pytest.mark.parametrize("neuron", [Mixed, Silent, Learned])
def test_who_changes_the_dynamics_and_names_no_slopes_takes_the_reference(
    neuron: type[LIF],
) -> None:
    layer, x = neuron(), torch.full((6, 1, 1), 3.0)
    assert not layer.fusible
    assert torch.equal(layer(x), layer.reference(x))
    for parameter in layer.parameters():
        layer(x).sum().backward()
        assert parameter.grad is not None


def test_a_charge_of_one_neuron_alone_counts() -> None:
    layer, x = LIF(), torch.full((6, 1, 1), 3.0)
    layer.charge = lambda x, v: v + 0.1 * x  # type: ignore[method-assign]
    assert torch.equal(layer(x), layer.reference(x))


def test_a_norm_that_does_not_fit_is_refused_as_by_torch() -> None:
    with pytest.raises(RuntimeError, match="normalized_shape"):
        LIF()(torch.ones(2, 3, 5), PopNorm((3,)), 2)
    with pytest.raises(RuntimeError):
        LIF()(torch.ones(2, 3, 5), PopNorm((5,)).double(), 2)


def test_a_norm_over_the_last_dimensions_alone_is_left_to_torch() -> None:
    x = torch.randn(1, 4, 2, 3, generator=torch.Generator().manual_seed(0))
    layer, norm = LIF(), PopNorm((3,))
    fast = layer(x, norm, 5)
    layer.backend = "reference"
    assert torch.equal(fast, layer(x, norm, 5))


@pytest.mark.parametrize("kind", ["forward", "forward_pre", "full_backward", "full_backward_pre"])
def test_hooks_on_a_norm_are_called(kind: str) -> None:
    norm, seen = PopNorm((5,)), []
    getattr(norm, f"register_{kind}_hook")(lambda *_: seen.append(1))
    LIF()(torch.ones(1, 3, 5, requires_grad=True), norm, 4).sum().backward()
    assert seen == [1]


@pytest.mark.parametrize("entries", [2, 3, 5])
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_currents_for_another_time_window_are_refused(entries: int, backend: Any) -> None:
    layer = LIF()
    layer.backend = backend
    with pytest.raises(ValueError, match=f"4 entries .T., or one, got {entries}"):
        layer(torch.ones(entries, 1, 1), None, 4)


def test_code_on_disk_holds_the_number_of_every_surrogate() -> None:
    """Code on disk outlives changes of other files: these numbers must not come from one."""
    assert set(cpu.CODES) == set(SLOPES)
    assigned = next(
        node
        for node in ast.parse(Path(cpu.__file__).read_text()).body
        if isinstance(node, ast.Assign) and "QUADRATIC_GATE" in ast.unparse(node.targets[0])
    )
    assert ast.literal_eval(assigned.value) == tuple(range(len(SLOPES)))


@pytest.mark.parametrize("damage", ["cut", "full disk"])
def test_code_on_disk_that_is_damaged_or_cannot_be_written_stops_nobody(
    damage: str, tmp_path: Path
) -> None:
    program = "import torch; from sdqn_lab.spiking.neuron import LIF; LIF()(torch.ones(2, 1, 1))"
    if damage == "full disk":
        limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10)); "
        ignore = "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        program = ignore + limit + program
    command = [sys.executable, "-c", program]
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    subprocess.run(command, env=environment, check=True)
    for file in tmp_path.rglob("*.nb?"):
        file.write_bytes(file.read_bytes()[:20])
    subprocess.run(command, env=environment, check=True)


def fingerprints() -> Iterator[str]:
    """One a layer, of its spikes and gradients; rows are no multiples of a vector register."""
    random = torch.Generator().manual_seed(6)
    choices = product((1, 7, 33, 90, 803), NEURONS, SLOPES, (False, True), (NoNorm, PopNorm))
    for units, neuron, surrogate, detach_reset, norm in choices:
        x = 1.5 * torch.randn(STEPS, BATCH, units, generator=random) + 0.7
        layer = NEURONS[neuron](surrogate=surrogate(alpha=0.8), detach_reset=detach_reset)
        spikes, gradients = run(layer, norm((units,)), x.requires_grad_(), "auto")
        numbers = b"".join(tensor.numpy().tobytes() for tensor in (spikes, *gradients))
        name = f"{neuron}, {surrogate.__name__}, {detach_reset=}, {norm.__name__}({units})"
        yield f"{name}: {sha256(numbers).hexdigest()}"


def test_code_from_disk_computes_the_bits_of_the_process_that_compiled_it(tmp_path: Path) -> None:
    def printed() -> list[str]:
        program = "from tests.spiking.test_compiled import *; print(*fingerprints(), sep='\\n')"
        return subprocess.run(
            [sys.executable, "-c", program],
            cwd=Path(__file__).parents[2],
            env=os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)},
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout.splitlines()

    compiled = printed()
    assert compiled == printed()
    for file in tmp_path.rglob("cpu._backward*"):
        file.unlink()
    assert compiled == printed()
