"""Escape noise: probabilities and gradients against every spike train there is."""

from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sdqn_lab.networks.probe import probe
from sdqn_lab.spiking.neuron import LIF, Bernoulli
from sdqn_lab.spiking.norm import PopNorm
from sdqn_lab.spiking.surrogate import Atan, Sigmoid
from tests.golden import Case, cases, load, tensor
from tests.networks.helpers import build
from tests.refusals import refuses

EXACT = cases("score_function_*")


def neuron_of(case: Case) -> Bernoulli:
    return Bernoulli(
        tau=float(case["tau"]),
        delta_u=1 / float(case["slope"]),
        v_threshold=float(case["v_threshold"]),
    )


def patterns(case: Case) -> Tensor:
    """Every spike train of the case, (T, number of trains, units)."""
    shape = len(case["x"]), len(case["W"])
    every = list(product([0.0, 1.0], repeat=shape[0] * shape[1]))
    return torch.tensor(every, dtype=torch.float64).view(-1, *shape).transpose(0, 1)


def currents(case: Case, weights: Tensor, trains: int) -> Tensor:
    return (tensor(case["x"]) @ weights.T)[:, None].expand(-1, trains, -1)


def likelihood(neuron: Bernoulli, x_seq: Tensor, spikes: Tensor) -> Tensor:
    """Log-likelihood of each train."""
    p = neuron.probabilities(x_seq, spikes)
    return torch.where(spikes == 1, p, 1 - p).log().sum((0, 2))


@pytest.mark.parametrize("path", EXACT)
def test_probabilities_and_scores_of_all_spike_trains_are_exact(path: Path) -> None:
    case = load(path)
    neuron, every = neuron_of(case), patterns(case)
    weights = tensor(case["W"]).requires_grad_()
    found = likelihood(neuron, currents(case, weights, every.shape[1]), every)
    torch.testing.assert_close(found.exp().detach(), tensor(case["probability"]))
    scores = [torch.autograd.grad(one, weights, retain_graph=True)[0] for one in found]
    torch.testing.assert_close(torch.stack(scores), tensor(case["score"]))
    expected = (found.exp() * tensor(case["reward"])).sum()
    assert expected.item() == pytest.approx(float(case["expected_reward"]))
    (gradient,) = torch.autograd.grad(expected, weights)
    torch.testing.assert_close(gradient, tensor(case["gradient"]))


@pytest.mark.parametrize("path", EXACT)
def test_spikes_are_drawn_as_often_as_they_are_likely_and_the_estimate_is_unbiased(
    path: Path,
) -> None:
    case, draws = load(path), 40_000
    neuron, weights = neuron_of(case), tensor(case["W"])
    neuron.generator = torch.Generator().manual_seed(0)
    spikes = neuron(currents(case, weights, draws))
    bits = spikes.transpose(0, 1).flatten(1)
    numbers = (bits @ 2.0 ** torch.arange(bits.shape[1] - 1, -1, -1, dtype=torch.float64)).long()
    exact = tensor(case["probability"])
    shares = numbers.bincount(minlength=len(exact)) / draws
    assert ((shares - exact).abs() <= 5 * (exact * (1 - exact) / draws).sqrt()).all()
    estimates = tensor(case["reward"])[numbers, None, None] * tensor(case["score"])[numbers]
    error = (estimates.mean(0) - tensor(case["gradient"])).abs()
    assert (error <= 5 * estimates.std(0) / draws**0.5).all()


def test_towards_no_noise_it_is_a_lif() -> None:
    x = torch.rand(20, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 4
    for reset in ("hard", "soft"):
        assert torch.equal(Bernoulli(delta_u=1e-9, reset=reset)(x), LIF(reset=reset)(x))


def test_probabilities_follow_the_reset() -> None:
    x, spikes = torch.full((3, 1, 1), 2.0), torch.tensor([0.0, 1.0, 0.0]).view(3, 1, 1)
    # Membranes 1, 1.5 and, after the spike, 1 (hard) or 0.25 + 1 (soft).
    for reset, last in (("hard", 1.0), ("soft", 1.25)):
        found = Bernoulli(delta_u=0.5, reset=reset).probabilities(x, spikes)
        expected = ((torch.tensor([1.0, 1.5, last]) - 1) / 0.5).sigmoid()
        torch.testing.assert_close(found.flatten(), expected)


@pytest.mark.parametrize("surrogate", [Atan(alpha=3.0), Sigmoid(alpha=4.0)])
def test_the_backward_pass_is_the_surrogates(surrogate: Atan | Sigmoid) -> None:
    x = torch.tensor([[0.5, 2.0, 5.0]], dtype=torch.float64)[None].requires_grad_()
    neuron = Bernoulli(tau=2.0, surrogate=surrogate)
    neuron.generator = torch.Generator().manual_seed(0)
    spikes = neuron(x)
    assert set(spikes.flatten().tolist()) <= {0.0, 1.0}
    spikes.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, surrogate.derivative(x.detach() / 2 - 1) / 2)
    if isinstance(surrogate, Sigmoid):  # alpha = 1 / delta_u: the slope of the probability
        membranes = x / 2
        (slope,) = torch.autograd.grad(neuron.probability(membranes).sum(), x)
        torch.testing.assert_close(x.grad, slope)


def test_a_network_draws_from_the_generator_of_the_call_and_from_no_other() -> None:
    network = build(Bernoulli, PopNorm)
    x, state = torch.rand(3, 2, 8, 7), torch.get_rng_state()

    def answer(seed: int) -> Tensor:
        q: Tensor = network(x.double(), generator=torch.Generator().manual_seed(seed))
        return q

    assert torch.equal(answer(0), answer(0))
    assert not torch.equal(answer(0), answer(1))
    assert all(probe(network, x) == probe(network, x) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(m.generator is None for m in network.modules() if isinstance(m, Bernoulli))
    network(x)
    assert not torch.equal(torch.get_rng_state(), state)


def test_it_always_takes_the_plain_steps() -> None:
    neuron = Bernoulli()
    neuron.backend = "auto"
    assert (neuron.backend, neuron.fusible) == ("reference", False)


@pytest.mark.parametrize("delta_u", [0.0, -1.0, float("inf"), float("nan")])
def test_refuses_a_width_that_is_none(delta_u: float) -> None:
    with refuses("delta_u", delta_u):
        Bernoulli(delta_u=delta_u)
