from functools import partial

import pytest
import torch

from sdqn_lab.checks.refused import Refused
from sdqn_lab.networks.network import SpikingNetwork
from sdqn_lab.spiking.encoder import Poisson
from sdqn_lab.spiking.neuron import LIF, PLIF, ReLU
from sdqn_lab.spiking.norm import BatchNorm, PopNorm
from sdqn_lab.spiking.readout import FirstSpike, LastMembrane, MaxMembrane, MeanMembrane, Readout
from sdqn_lab.spiking.stats import SpikeRecorder
from tests.networks.helpers import NEURONS, NORMS, images, small

each_neuron = pytest.mark.parametrize("neuron", NEURONS)
each_norm = pytest.mark.parametrize("norm", NORMS)


def moved_statistics(network: SpikingNetwork) -> SpikingNetwork:
    """The network after a training batch, in evaluation mode."""
    network(images(8, seed=7))
    return network.eval()


@each_neuron
@each_norm
def test_two_calls_give_the_same_answer(neuron: str, norm: str) -> None:
    network = moved_statistics(small(NEURONS[neuron], NORMS[norm]))
    first = network(images(3))
    network(images(5, seed=2))
    assert first.abs().max() > 0
    assert torch.equal(first, network(images(3)))


@each_neuron
@each_norm
def test_a_batch_of_two_equals_two_batches_of_one(neuron: str, norm: str) -> None:
    network = moved_statistics(small(NEURONS[neuron], NORMS[norm]))
    batch = images(2)
    both = network(batch)
    assert not torch.allclose(both[0], both[1])
    one_by_one = torch.cat([network(batch[:1]), network(batch[1:])])
    torch.testing.assert_close(both, one_by_one, rtol=1e-10, atol=1e-10)


@each_norm
def test_nothing_but_running_statistics_changes_in_a_call(norm: str) -> None:
    network = small(LIF, NORMS[norm])
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network(images(3))
    changed = {n for n, value in network.state_dict().items() if not torch.equal(value, before[n])}
    expected = {"torso.conv1.norm.running_mean", "torso.conv1.norm.running_var"}
    assert changed == (expected if norm == "batchnorm" else set())
    network.eval()(images(3, seed=1))
    after = {n: value.clone() for n, value in network.state_dict().items()}
    network(images(3, seed=2))
    assert all(torch.equal(value, after[n]) for n, value in network.state_dict().items())


@each_norm
@pytest.mark.parametrize("time_window", [1, 2, 16])
def test_the_ann_baseline_has_no_time(norm: str, time_window: int) -> None:
    network = small(ReLU, NORMS[norm], time_window=time_window)
    reference = small(ReLU, NORMS[norm], time_window=5)
    torch.testing.assert_close(network(images(3)), reference(images(3)), rtol=0, atol=0)
    for ours, theirs in zip(network.buffers(), reference.buffers(), strict=True):
        assert torch.equal(ours, theirs)
    with_window = network(images(3), time_window=time_window + 1)
    assert torch.equal(with_window, reference(images(3)))


def test_the_ann_baseline_is_the_plain_artificial_network() -> None:
    network = small(ReLU, PopNorm, observation_scale=2.0)
    conv, hidden = network.get_submodule("torso.conv1"), network.get_submodule("torso.hidden")
    x = images(3).double() / 2
    h = torch.nn.functional.layer_norm(conv.linear(x), (3, 6, 5)).relu()
    expected = network.readout.linear(hidden.linear(h.flatten(1)).relu())
    torch.testing.assert_close(network(images(3)), expected)


@pytest.mark.parametrize("neuron", ["lif", "if", "plif"])
def test_spiking_networks_do_have_time(neuron: str) -> None:
    network = small(NEURONS[neuron], PopNorm)
    assert not torch.allclose(network(images(3), time_window=1), network(images(3), time_window=6))


def test_the_time_window_of_a_call_overrides_the_networks_own() -> None:
    three, seven = small(time_window=3), small(time_window=7)
    assert not torch.allclose(three(images(3)), seven(images(3)))
    assert torch.equal(three(images(3), time_window=7), seven(images(3)))


def test_poisson_answers_are_a_function_of_the_generator() -> None:
    network = small(LIF, PopNorm, encoder=Poisson, observation_scale=2.0)
    x = images(3)

    def answer(seed: int) -> torch.Tensor:
        q: torch.Tensor = network(x, generator=torch.Generator().manual_seed(seed))
        return q

    assert torch.equal(answer(0), answer(0))
    assert not torch.equal(answer(0), answer(1))


def test_divides_the_observation_by_its_scale() -> None:
    scaled, plain = small(ReLU, observation_scale=255.0), small(ReLU)
    torch.testing.assert_close(scaled(images(3)), plain(images(3) / 255.0), rtol=1e-6, atol=1e-6)


def test_bytes_and_floats_give_the_same_answer() -> None:
    network = small(observation_scale=3.0).float()
    assert torch.equal(network(images(3)), network(images(3).float()))
    assert network(images(3)).dtype == torch.float32


def test_parameters_come_in_the_promised_order() -> None:
    names = [name for name, _ in small(PLIF, PopNorm, channels=(2, 3)).named_parameters()]
    assert names == [
        "torso.conv1.linear.weight",
        "torso.conv1.linear.bias",
        "torso.conv1.norm.weight",
        "torso.conv1.norm.bias",
        "torso.conv1.neuron.w",
        "torso.conv2.linear.weight",
        "torso.conv2.linear.bias",
        "torso.conv2.norm.weight",
        "torso.conv2.norm.bias",
        "torso.conv2.neuron.w",
        "torso.hidden.linear.weight",
        "torso.hidden.linear.bias",
        "torso.hidden.neuron.w",
        "readout.linear.weight",
    ]


@each_neuron
def test_arms_that_differ_in_neuron_or_time_start_from_equal_maps(neuron: str) -> None:
    ours = small(NEURONS[neuron], time_window=3)
    baseline = small(ReLU, time_window=8)
    for name, value in baseline.state_dict().items():
        if "linear" in name:
            assert torch.equal(ours.state_dict()[name], value)


def test_recorder_names_the_layers_of_a_network() -> None:
    network = small(channels=(2, 3))
    with SpikeRecorder(network) as recorder:
        network(images(3))
    layers = recorder.layers()
    assert list(layers) == ["conv1", "conv2", "hidden"]
    assert 0 < layers["conv1"].firing_rate < 1


@pytest.mark.parametrize("cls", [MeanMembrane, LastMembrane, MaxMembrane, FirstSpike])
def test_refuses_a_membrane_readout_on_neurons_without_time(cls: type[Readout]) -> None:
    with pytest.raises(Refused) as error:
        small(ReLU, PopNorm, cls)
    assert (error.value.key, error.value.instead) == ("readout", "readout=mean_spikes")


@pytest.mark.parametrize("time_window", [0, -3])
def test_refuses_a_time_window_below_one(time_window: int) -> None:
    network = small()
    for refused in (
        lambda: small(time_window=time_window),
        lambda: network(images(2), time_window=time_window),
    ):
        with pytest.raises(Refused) as error:
            refused()
        assert (error.value.key, error.value.value) == ("time_window", time_window)


@pytest.mark.parametrize("scale", [0.0, -255.0, float("nan")])
def test_refuses_a_scale_that_is_not_positive(scale: float) -> None:
    with pytest.raises(Refused) as error:
        small(observation_scale=scale)
    assert (error.value.key, error.value.value) == ("observation_scale", scale)


def test_batchnorm_makes_answers_depend_on_the_batch_in_training_only() -> None:
    network = small(lambda: LIF(v_threshold=0.3), BatchNorm)
    batch = images(4)
    assert not torch.allclose(network(batch)[:2], network(batch[:2]))
    network.eval()
    torch.testing.assert_close(network(batch)[:2], network(batch[:2]))


def test_a_learned_threshold_behind_popnorm_is_said_to_be_no_new_freedom() -> None:
    learned = partial(LIF, learn_threshold="layer")
    (note,) = small(learned, PopNorm, channels=(2, 3)).notes()
    assert "conv1, conv2 are no new freedom" in note  # the hidden layer has no norm here
    for make, norm in [
        (LIF, PopNorm),
        (learned, BatchNorm),
        (partial(learned, v_reset=-0.5), PopNorm),  # which cannot be scaled along
        (ReLU, PopNorm),
    ]:
        assert not list(small(make, norm).notes())


def test_thresholds_of_channels_are_as_many_as_outputs_of_their_maps() -> None:
    network = small(partial(LIF, learn_threshold="channel"), PopNorm, channels=(2, 3))
    sizes = {n: p.numel() for n, p in network.named_parameters() if "log_threshold" in n}
    assert sizes == {
        "torso.conv1.neuron.log_threshold": 2,
        "torso.conv2.neuron.log_threshold": 3,
        "torso.hidden.neuron.log_threshold": 16,
    }
