from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sdqn_lab.checks.refused import Refused
from sdqn_lab.spiking.readout import (
    DiscountedSpikes,
    FirstSpike,
    LastMembrane,
    MaxMembrane,
    MeanMembrane,
    MeanSpikes,
    PopulationRates,
    Readout,
    first_spike_time,
)
from tests.golden import cases, load, tensor

ALL = [MeanSpikes, MeanMembrane, LastMembrane, MaxMembrane, DiscountedSpikes, FirstSpike]
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
        # discounts 1/2, 1/4, 1/8; of the first step alone with tau = 1
        (DiscountedSpikes(2, 1), 2 / 2 - 2 / 4 + 2 / 8),
        (DiscountedSpikes(2, 1, tau=1.0), 2.0),
        # first spikes at steps 0 and 1 of three
        (FirstSpike(2, 1), 2 * 1 - 4 * 2 / 3),
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


def test_only_the_mean_of_spikes_needs_no_time() -> None:
    assert [cls for cls in ALL if not cls.temporal] == [MeanSpikes]


@pytest.mark.parametrize("tau", [1.0, 1.5, 2.0, 20.0])
def test_discounted_spikes_mirror_the_last_membrane(tau: float) -> None:
    spikes = (torch.rand(7, 3, 5, generator=torch.Generator().manual_seed(0)) > 0.5).double()
    mirror, readout = (cls(5, 4, tau=tau).double() for cls in (LastMembrane, DiscountedSpikes))
    readout.load_state_dict(mirror.state_dict())
    torch.testing.assert_close(readout(spikes), mirror(spikes.flip(0)))


def derivative_by_flipping(spikes: Tensor) -> Tensor:
    """What one spike more, or one less, changes in the time: its size with the spike's sign."""
    changes = torch.zeros_like(spikes)
    for index in spikes.flatten().nonzero().flatten().tolist() + (
        (1 - spikes).flatten().nonzero().flatten().tolist()
    ):
        on, off = spikes.clone().flatten(), spikes.clone().flatten()
        on[index], off[index] = 1, 0
        times = [first_spike_time(each.view_as(spikes)).sum() for each in (on, off)]
        changes.view(-1)[index] = times[0] - times[1]
    return changes


@pytest.mark.parametrize("share", [0.0, 0.1, 0.4, 1.0])
def test_the_gradient_of_the_first_spike_is_what_one_spike_changes(share: float) -> None:
    draws = torch.rand(6, 3, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    spikes = (draws < share).double().requires_grad_()
    time = first_spike_time(spikes)
    plain = [next((t for t in range(6) if column[t]), 6) for column in spikes.flatten(1).T.tolist()]
    assert time.flatten().tolist() == plain
    time.sum().backward()
    assert spikes.grad is not None
    assert torch.equal(spikes.grad, derivative_by_flipping(spikes.detach()))


@pytest.mark.parametrize("path", cases("first_spike_multilinear_*"))
def test_first_spike_time_is_the_closed_form(path: Path) -> None:
    case = load(path)
    spikes = tensor(case["spikes"]).requires_grad_()
    time = first_spike_time(spikes)
    assert torch.equal(time, tensor(case["time"]))
    (slopes,) = torch.autograd.grad(time.sum(), spikes, retain_graph=True)
    assert torch.equal(slopes, tensor(case["dtime_dspikes"]))
    (weighted_slopes,) = torch.autograd.grad((tensor(case["w"]) * time).sum(), spikes)
    torch.testing.assert_close(weighted_slopes, tensor(case["dloss_dspikes"]), rtol=1e-12, atol=0)


@pytest.mark.parametrize("path", cases("first_spike_T*"))
def test_first_spike_times_are_the_originals_and_silence_is_our_own(path: Path) -> None:
    """A silent unit counts T - 1 in snnTorch and infinity in Norse, and here T."""
    case = load(path)
    spikes, silent = tensor(case["spikes"]), tensor(case["norse_silent"])
    time = first_spike_time(spikes)
    assert torch.equal(time.clamp(max=len(spikes) - 1), tensor(case["first_spike_time"]))
    assert torch.equal(time[~silent], tensor(case["norse_time"])[~silent])
    assert (time[silent] == len(spikes)).all()


def test_every_unit_gets_a_gradient_from_the_first_spike_also_a_silent_one() -> None:
    readout = weighted(FirstSpike(2, 1), 1.0, -3.0)
    spikes = torch.zeros(4, 1, 2, requires_grad=True)
    readout(spikes).sum().backward()
    assert spikes.grad is not None
    # Q = W (1 - t / T), dt / ds_k = -(T - k).
    assert spikes.grad[:, 0].tolist() == [[1.0, -3.0], [0.75, -2.25], [0.5, -1.5], [0.25, -0.75]]


@pytest.mark.parametrize("cls", [MeanMembrane, LastMembrane, MaxMembrane, DiscountedSpikes])
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


def population(in_features: int, outputs: int, units: int) -> PopulationRates:
    """A population whose neurons are the torso's, in a layer that hands their spikes on."""
    return PopulationRates(in_features, outputs, lambda *sizes: HandsOn(), units=units)


class HandsOn(nn.Module):
    def forward(self, spike_seq: Tensor, time_window: int) -> Tensor:
        assert len(spike_seq) == time_window
        return spike_seq


def test_a_population_is_the_weighted_sum_of_the_rates_of_its_own_neurons() -> None:
    readout = population(4, 2, units=2)
    with torch.no_grad():
        readout.linear.weight.copy_(torch.tensor([[1.0, 2.0], [-1.0, 10.0]]))
    # Rates 1 and 0.5 of the first output, 0.5 and 0.25 of the second.
    spikes = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 0, 0, 0], [1, 0, 0, 0]])
    assert readout(spikes.float()[:, None]).tolist() == [[1 + 2 * 0.5, -0.5 + 10 * 0.25]]


@pytest.mark.parametrize("path", cases("pop_actor_*"))
def test_a_population_is_decoded_as_the_originals_actor_does(path: Path) -> None:
    """Its decoder has a bias besides, and its action ends in tanh."""
    case = load(path)
    rates, weight = tensor(case["out_pop_rate"]), tensor(case["param/decoder.decoder.weight"])
    outputs, _, units = weight.shape
    readout = population(8, outputs, units)
    with torch.no_grad():
        readout.linear.weight.copy_(weight[:, 0])
    bias, limit = tensor(case["param/decoder.decoder.bias"]), float(case["act_limit"])
    actions = limit * torch.tanh(readout.weighted(rates) + bias)
    torch.testing.assert_close(actions, tensor(case["action"]), rtol=1e-5, atol=1e-6)
    (actions - tensor(case["target"])).square().mean().backward()
    gradient = tensor(case["grad/decoder.decoder.weight"])[:, 0]
    torch.testing.assert_close(readout.linear.weight.grad, gradient, rtol=1e-5, atol=1e-6)
