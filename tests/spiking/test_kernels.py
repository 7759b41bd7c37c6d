"""The fused path is the reference: the same spikes, and gradients equal to rounding."""

import pytest
import torch

from sdqn_lab.spiking.neuron import IF, LIF, PLIF
from sdqn_lab.spiking.surrogate import Surrogate

SURROGATES = sorted(Surrogate.__subclasses__(), key=lambda cls: cls.__name__)
NEURONS = [
    (LIF, {"tau": 2.0}),
    (LIF, {"tau": 1.0}),
    (LIF, {"tau": 3.7, "v_threshold": 0.6, "v_reset": -0.25}),
    (LIF, {"reset": "soft"}),
    (IF, {}),
    (IF, {"v_reset": 0.3}),
    (IF, {"reset": "soft", "v_threshold": 0.7}),
]


def gradients(run, x_seq, weight):
    x_seq = x_seq.clone().requires_grad_()
    spikes = run(x_seq)
    (spikes * weight).sum().backward()
    return spikes.detach(), x_seq.grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("detach_reset", [True, False])
@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize(("neuron", "settings"), NEURONS)
def test_fused_equals_reference(neuron, settings, surrogate, detach_reset, dtype):
    layer = neuron(surrogate=surrogate(), detach_reset=detach_reset, **settings)
    random = torch.Generator().manual_seed(1)
    x_seq = 1.5 * torch.randn(9, 4, 30, generator=random, dtype=dtype) + 0.5
    weight = torch.randn(9, 4, 30, generator=random, dtype=dtype)
    fused_spikes, fused_grad = gradients(layer, x_seq, weight)
    spikes, grad = gradients(layer.reference, x_seq, weight)
    assert 0.05 < spikes.mean() < 0.95
    assert torch.equal(fused_spikes, spikes)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-13
    assert grad.abs().max() > 0
    assert torch.allclose(fused_grad, grad, rtol=tolerance, atol=tolerance * grad.abs().max())


def test_a_constant_input_may_be_a_view_and_collects_the_gradient_of_all_steps():
    layer, random = LIF(), torch.Generator().manual_seed(2)
    x = (2 * torch.rand(1, 3, 20, generator=random)).requires_grad_()
    weight = torch.randn(6, 3, 20, generator=random)
    (layer(x.expand(6, 3, 20)) * weight).sum().backward()
    fused = x.grad.clone()
    x.grad = None
    (layer.reference(x.expand(6, 3, 20)) * weight).sum().backward()
    assert torch.allclose(fused, x.grad, rtol=1e-5, atol=1e-6)


def test_the_reference_is_selectable():
    layer = LIF()
    x_seq = torch.ones(4, 1, 2, requires_grad=True)
    assert type(layer(x_seq).grad_fn).__name__ == "_LayerBackward"
    layer.backend = "reference"
    assert type(layer(x_seq).grad_fn).__name__ == "StackBackward0"


def test_a_neuron_without_constant_slopes_takes_the_reference():
    layer = PLIF()
    layer(torch.ones(4, 1, 2)).sum().backward()
    assert layer.w.grad is not None


def test_a_subclass_that_changes_the_charge_alone_takes_the_reference():
    class Undivided(LIF):
        def charge(self, x, v):
            return v - v / self.tau + x

    layer = Undivided()
    assert not layer.fusible
    x_seq = torch.full((2, 1, 1), 0.4, requires_grad=True)
    layer(x_seq).sum().backward()
    own = x_seq.grad.clone()
    x_seq.grad = None
    layer.reference(x_seq).sum().backward()
    assert torch.equal(own, x_seq.grad)


def test_a_subclass_that_changes_the_step_takes_the_reference():
    class Twice(LIF):
        def step(self, x, v):
            spike, v = super().step(x, v)
            return 2 * spike, v

    assert Twice()(torch.full((3, 1, 1), 5.0)).unique().tolist() == [2.0]


def test_without_gradient_nothing_is_kept():
    spikes = LIF()(torch.ones(4, 1, 2))
    assert spikes.grad_fn is None
