import torch

from sdqn_lab.spiking.encoder import Direct, Poisson


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
