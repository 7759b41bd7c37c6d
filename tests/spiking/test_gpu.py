"""The Triton kernels are the reference, to rounding: on a GPU, or else in Triton's interpreter."""

import os
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor

from sdqn_lab.spiking.neuron import CODES, IF, LIF, SpikingNeuron
from sdqn_lab.spiking.surrogate import Surrogate

pytestmark = pytest.mark.skipif(
    find_spec("triton") is None, reason="needs Triton, which comes with torch for CUDA"
)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"  # read when the kernels are loaded

SHAPE = (3, 4, 3, 8)
STEPS = 5
NEURONS: dict[str, Any] = {
    "lif": LIF,
    "lif, reset below rest": lambda **extra: LIF(tau=1.3, v_threshold=0.6, v_reset=-0.25, **extra),
    "if, soft": lambda **extra: IF(reset="soft", v_threshold=0.7, **extra),
}


def currents(constant: bool = False, channels_last: bool = False) -> Tensor:
    random = torch.Generator().manual_seed(3)
    x = (1.5 * torch.randn(1 if constant else STEPS, *SHAPE, generator=random) + 0.7).to(DEVICE)
    if channels_last:
        x = x.flatten(0, 1).contiguous(memory_format=torch.channels_last).view(x.shape)
    return x.requires_grad_()


def assert_equals_reference(neuron: SpikingNeuron, x: Tensor) -> Tensor:
    from sdqn_lab.spiking.kernels import gpu

    layer = neuron.kernel_constants()
    assert layer is not None
    results = []
    for spikes in (gpu.run_neuron(x, STEPS, layer), neuron.reference(x.expand(STEPS, *SHAPE))):
        direction = torch.randn(spikes.shape, generator=torch.Generator().manual_seed(5))
        (grad,) = torch.autograd.grad((spikes * direction.to(DEVICE)).sum(), x)
        results.append((spikes.detach(), grad))
    (fast, fast_grad), (slow, slow_grad) = results
    assert 0.02 < slow.mean() < 0.98
    assert torch.equal(fast, slow), "a membrane at the threshold; draw other currents"
    assert slow_grad.abs().max() > 0
    torch.testing.assert_close(fast_grad, slow_grad, rtol=1e-5, atol=1e-6)
    return fast


@pytest.mark.parametrize("detach_reset", [True, False])
@pytest.mark.parametrize("surrogate", CODES, ids=[cls.__name__ for cls in CODES])
@pytest.mark.parametrize("neuron", NEURONS)
def test_equals_the_reference_for_every_surrogate_and_reset(
    neuron: str, surrogate: type[Surrogate], detach_reset: bool
) -> None:
    layer = NEURONS[neuron](surrogate=surrogate(alpha=0.8), detach_reset=detach_reset)
    assert_equals_reference(layer, currents())


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("constant", [False, True])
def test_equals_the_reference_in_every_layout(constant: bool, channels_last: bool) -> None:
    spikes = assert_equals_reference(LIF(tau=1.5), currents(constant, channels_last))
    if channels_last:
        assert spikes.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)


def test_a_number_of_units_that_fills_no_block_leaves_its_neighbours_alone() -> None:
    from sdqn_lab.spiking.kernels import gpu

    layer = LIF().kernel_constants()
    assert layer is not None
    room = torch.full((STEPS, 2, gpu.BLOCK + 1), 3.0, device=DEVICE)
    assert torch.equal(gpu.run_neuron(room, STEPS, layer), torch.ones_like(room))
