import math
from pathlib import Path

import pytest
import torch

from sdqn_lab.spiking.encoder import (
    Delta,
    Direct,
    Latency,
    Poisson,
    Population,
    population_activity,
    population_spikes,
)
from tests.golden import FOLDER, cases, load, tensor
from tests.refusals import refuses


def test_direct_is_the_input_once_for_all_steps() -> None:
    x = torch.rand(3, 2, 4)
    assert Direct.constant
    assert torch.equal(Direct()(x, 16, None), x.unsqueeze(0))


def test_poisson_spikes_with_the_probability_of_its_input() -> None:
    x = torch.tensor([[0.0, 0.1, 0.5, 0.9, 1.0]], dtype=torch.float64)
    steps = 20_000
    spikes = Poisson()(x, steps, torch.Generator().manual_seed(0))
    assert not Poisson.constant
    assert spikes.shape == (steps, 1, 5)
    assert set(spikes.unique().tolist()) == {0.0, 1.0}
    rates = spikes.mean((0, 1))
    assert rates[0] == 0
    assert rates[4] == 1
    five_sigma = 5 * (x[0] * (1 - x[0]) / steps).sqrt()
    assert ((rates - x[0]).abs() <= five_sigma).all()


def test_poisson_draws_steps_and_samples_independently() -> None:
    spikes = Poisson()(torch.full((2, 1), 0.5), 20_000, torch.Generator().manual_seed(0)).squeeze()
    first, second = spikes.T - 0.5
    five_sigma = 5 * 0.25 / 20_000**0.5
    assert abs((first * second).mean()) <= five_sigma
    assert abs((first[1:] * first[:-1]).mean()) <= five_sigma


def test_poisson_is_a_function_of_its_generator() -> None:
    x = torch.full((2, 30), 0.5)
    first = Poisson()(x, 4, torch.Generator().manual_seed(1))
    assert torch.equal(first, Poisson()(x, 4, torch.Generator().manual_seed(1)))
    assert not torch.equal(first, Poisson()(x, 4, torch.Generator().manual_seed(2)))
    state = torch.get_rng_state()
    Poisson()(x, 4, torch.Generator().manual_seed(1))
    assert torch.equal(torch.get_rng_state(), state)


def test_latency_fires_once_and_the_sooner_the_larger_the_input() -> None:
    x = torch.tensor([[1.0, 0.75, 0.5, 0.25, 0.1, 0.0], [0.0, 2.0, 0.09, -1.0, float("nan"), 0.6]])
    spikes = Latency(threshold=0.1)(x, 5)
    assert not Latency.constant
    assert spikes.shape == (5, 2, 6)
    steps = [[0, 1, 2, 3, 4, None], [None, 0, None, None, None, 2]]
    for row, wanted in enumerate(steps):
        for column, step in enumerate(wanted):
            fired = spikes[:, row, column].nonzero().flatten().tolist()
            assert fired == ([] if step is None else [step])


def test_latency_of_a_single_step_and_of_binary_inputs_is_the_input() -> None:
    x = torch.tensor([[0.0, 1.0, 1.0, 0.0]])
    assert torch.equal(Latency()(x, 1), x[None])
    spikes = Latency()(x, 7)
    assert torch.equal(spikes[0], x)
    assert not spikes[1:].any()


def test_latency_of_a_sample_depends_on_no_other() -> None:
    x = torch.rand(6, 3, 4, generator=torch.Generator().manual_seed(0))
    spikes = Latency()(x, 8)
    for sample in range(6):
        assert torch.equal(Latency()(x[sample : sample + 1], 8)[:, 0], spikes[:, sample])


@pytest.mark.parametrize("path", cases("latency_*"))
def test_latency_is_the_linear_code_of_the_originals(path: Path) -> None:
    """Where they clip: without it, an input below the threshold fires at the last step there."""
    case = load(path)
    x, wanted = tensor(case["x"]), tensor(case["spikes"])
    threshold = float(case.get("threshold", 1e-6))
    # Without normalization the time constant of snnTorch is our T - 1, and no spike comes later.
    tau = int(case["tau"]) if "tau" in case and not case["normalize"] else len(wanted) - 1
    spikes = Latency(threshold=threshold)(x, tau + 1)
    assert not wanted[tau + 1 :].any()
    heard = x >= threshold
    assert torch.equal(spikes * heard, wanted[: tau + 1] * heard)
    assert not (spikes * ~heard).any()
    if case.get("clip", False):
        assert (~heard).any()
        assert torch.equal(spikes, wanted)


def test_delta_gives_events_between_frames_by_plane() -> None:
    frames = torch.tensor([0.0, 0.5, 0.5, 0.25]).view(1, 4, 1, 1)
    events = Delta(threshold=0.25)(frames, 16)
    assert Delta.constant
    assert events.flatten().tolist() == [1, 0, 0, 0, 0, 1]  # ON of each step, then OFF
    assert events.shape == (1, 1, 6, 1, 1)
    assert Delta().shape((4, 84, 84)) == (6, 84, 84)


def test_delta_compares_frames_of_several_channels_channel_by_channel() -> None:
    first, second = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    stack = torch.cat([first, second]).view(1, 6)
    events = Delta(frames=2)(stack, 1)
    assert Delta(frames=2).shape((6,)) == (6,)
    assert events.flatten().tolist() == [0, 0, 1, 1, 0, 0]


@pytest.mark.parametrize("path", cases("delta_*"))
def test_delta_is_the_originals(path: Path) -> None:
    """Theirs has a first event against zero or padding, and OFF as -1 or not at all."""
    case = load(path)
    x, wanted = tensor(case["x"]), tensor(case["spikes"])[1:]
    events = Delta(frames=len(x), threshold=float(case["threshold"]))(x.flatten()[None], 1)
    on, off = events.view(2, len(x) - 1, -1)
    assert torch.equal(on, (wanted > 0).to(on.dtype))
    assert on.any() and off.any()
    if case["off_spike"]:
        assert torch.equal(on - off, wanted)


@pytest.mark.parametrize(
    ("make", "key", "value", "rule"),
    [
        (lambda: Latency(threshold=0.0), "threshold", 0.0, "must lie in (0, 1]"),
        (lambda: Latency(threshold=1.5), "threshold", 1.5, "must lie in (0, 1]"),
        (lambda: Delta(frames=1), "frames", 1, "must be >= 2"),
        (lambda: Delta(threshold=-1.0), "threshold", -1.0, "must be > 0"),
        (lambda: Delta(frames=3).shape((4, 9, 9)), "frames", 3, "must divide the 4 channels"),
    ],
)
def test_refuses_what_it_cannot_encode(make, key: str, value: object, rule: str) -> None:  # type: ignore[no-untyped-def]
    with refuses(key, value, rule=rule):
        make()


@pytest.mark.parametrize("path", cases("pop_encoder_*"))
def test_population_spikes_and_gradients_are_the_originals(path: Path) -> None:
    case = load(path)
    obs, mean, std = (tensor(case[name]).requires_grad_() for name in ("obs", "mean", "std"))
    spikes = population_spikes(population_activity(obs, mean, std), int(case["T"]))
    assert torch.equal(spikes, tensor(case["spikes"]))
    (tensor(case["w"]) * spikes).sum().backward()
    for name, leaf in (("obs", obs), ("mean", mean), ("std", std)):
        torch.testing.assert_close(leaf.grad, tensor(case[f"dloss_d{name}"]), rtol=1e-5, atol=1e-5)


def test_a_learned_population_begins_where_the_originals_does_and_trains() -> None:
    case = load(FOLDER / "pop_encoder_B3_O4_P10_T5_200.npz")
    encoder = Population(learned=True)
    encoder.make_weights((4,))
    names = [name for name, _ in encoder.named_parameters()]
    assert names == ["centres", "widths"]
    low, high, width = (float(case[name]) for name in ("mean_low", "mean_high", "std_init"))
    centres = torch.linspace(low, high, 10).expand(4, 10)
    torch.testing.assert_close(encoder.centres.detach(), centres)
    assert encoder.widths.flatten().tolist() == pytest.approx([width] * 40, rel=2e-3)
    x = torch.randn(5, 4)
    assert torch.equal(encoder(x, 7), Population()(x, 7))
    (encoder(x, 7) * torch.randn(7, 5, 40)).sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in encoder.parameters())


def test_a_fixed_population_has_nothing_to_learn() -> None:
    encoder = Population()
    encoder.make_weights((4,))
    assert not list(encoder.parameters()) and not encoder.state_dict()


def test_a_stochastic_population_fires_with_its_activity_as_probability() -> None:
    encoder = Population(units=3, low=0.0, high=2.0, width=0.5, stochastic=True, learned=True)
    encoder.make_weights((1,))
    draws = torch.Generator().manual_seed(0)
    spikes = encoder(torch.tensor([[1.0]]), 20_000, draws)
    # One distance off exp(-2); at its centre always.
    expected = torch.tensor([0.1353, 1.0, 0.1353])
    torch.testing.assert_close(spikes.mean(0)[0], expected, rtol=0, atol=0.01)
    again = encoder(torch.tensor([[1.0]]), 20_000, draws.manual_seed(0))
    assert torch.equal(again, spikes)
    # ds/da = 1: of the unit at 0, T da/dmu = T a (x - mu) / sigma^2.
    spikes[:, 0, 0].sum().backward()
    slope = 20_000 * math.exp(-2) * 1.0 / 0.25
    assert encoder.centres.grad[0].tolist() == pytest.approx([slope, 0, 0])


def test_a_unit_of_a_population_fires_the_more_often_the_nearer_its_centre_is() -> None:
    encoder = Population(units=3, low=[0.0, -10.0], high=[2.0, 10.0], width=0.5)
    assert encoder.shape((2,)) == (6,)
    spikes = encoder(torch.tensor([[1.0, -10.0], [0.0, 0.0], [0.5, 40.0]]), 100)
    assert spikes.shape == (100, 3, 6)
    rates = spikes.mean(0)
    # At its centre every step; one distance off exp(-2) = 0.135; half of one exp(-1/2) = 0.607.
    expected = [
        [0.13, 1.0, 0.13, 1.0, 0.13, 0.0],
        [1.0, 0.13, 0.0, 0.13, 1.0, 0.13],
        [0.6, 0.6, 0.01, 0.0, 0.0, 0.0],
    ]
    torch.testing.assert_close(rates, torch.tensor(expected), rtol=0, atol=0.011)


def test_a_population_that_does_not_fit_is_refused() -> None:
    with refuses("low", 3.0):
        Population(low=3.0, high=3.0)
    with refuses("units", 1):
        Population(units=1)
    with refuses("encoder.high", [1.0, 2.0]):
        Population(high=[1.0, 2.0]).shape((3,))
    with refuses("encoder", "population", "encoder=direct"):
        Population().shape((4, 10, 10))
