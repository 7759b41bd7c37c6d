import pytest
import torch
from torch import nn

from sdqn_lab.checks.refused import Refused
from sdqn_lab.spiking.readout import (
    LastMembrane,
    MaxMembrane,
    MeanMembrane,
    MeanSpikes,
    Readout,
)

ALL = [MeanSpikes, MeanMembrane, LastMembrane, MaxMembrane]
each_readout = pytest.mark.parametrize("cls", ALL)


def weighted(readout: Readout, *weights: float) -> Readout:
    with torch.no_grad():
        readout.linear.weight.copy_(torch.tensor([weights]))
    return readout


# two units, three steps; W = (2, -4) makes the currents 2, -2, 2
SPIKES = torch.tensor([[[1.0, 0.0]], [[1.0, 1.0]], [[1.0, 0.0]]])


@pytest.mark.parametrize(
    ("readout", "expected"),
    [
        # currents 2, -2, 2; with tau = 2 the membranes are 1, -0.5, 0.75
        (MeanSpikes(2, 1), (2 - 2 + 2) / 3),
        (MeanMembrane(2, 1), (1 - 0.5 + 0.75) / 3),
        (LastMembrane(2, 1), 0.75),
        (MaxMembrane(2, 1), 1.0),
        # without memory the membranes are the currents
        (MeanMembrane(2, 1, tau=1.0), 2 / 3),
        (LastMembrane(2, 1, tau=1.0), 2.0),
        (MaxMembrane(2, 1, tau=1.0), 2.0),
    ],
)
def test_reads_the_value_of_a_hand_calculation(readout: Readout, expected: float) -> None:
    value = weighted(readout, 2.0, -4.0)(SPIKES)
    assert value.shape == (1, 1)
    assert value.item() == pytest.approx(expected, rel=1e-6)


def test_the_maximum_may_be_negative_and_is_taken_per_action() -> None:
    readout = MaxMembrane(1, 2)
    with torch.no_grad():
        readout.linear.weight.copy_(torch.tensor([[-2.0], [4.0]]))
    assert readout(torch.ones(3, 1, 1)).tolist() == [[-1.0, 3.5]]


@each_readout
def test_answers_exactly_zero_to_silence(cls: type[Readout]) -> None:
    value = cls(5, 3)(torch.zeros(4, 2, 5))
    assert torch.equal(value, torch.zeros(2, 3))


@each_readout
def test_has_a_single_map_without_bias(cls: type[Readout]) -> None:
    readout = cls(5, 3)
    assert [(n, tuple(p.shape)) for n, p in readout.named_parameters()] == [
        ("linear.weight", (3, 5))
    ]


def test_the_mean_of_spikes_commutes_with_the_map() -> None:
    spikes = (torch.rand(7, 3, 5, generator=torch.Generator().manual_seed(0)) > 0.5).double()
    readout = MeanSpikes(5, 4).double()
    per_step = torch.stack([readout.linear(step) for step in spikes])
    torch.testing.assert_close(readout(spikes), per_step.mean(0))


def test_only_membranes_need_time() -> None:
    assert [cls.temporal for cls in ALL] == [False, True, True, True]


@pytest.mark.parametrize("cls", [MeanMembrane, LastMembrane, MaxMembrane])
@pytest.mark.parametrize("tau", [0.5, -1.0, float("inf"), float("nan")])
def test_refuses_a_time_constant_below_one_step(cls: type[MeanMembrane], tau: float) -> None:
    with pytest.raises(Refused) as error:
        cls(5, 3, tau=tau)
    assert (error.value.key, error.value.value) == ("tau", tau)


def test_tied_steps_share_the_gradient_of_the_maximum() -> None:
    readout = weighted(MaxMembrane(1, 1, tau=1.0), 1.0)
    spikes = torch.tensor([1.0, 1.0, 0.0]).view(3, 1, 1).requires_grad_()
    readout(spikes).sum().backward()
    assert spikes.grad is not None
    assert spikes.grad.flatten().tolist() == [0.5, 0.5, 0.0]
    assert isinstance(readout.linear, nn.Linear)
