import pytest
import torch
from torch import Tensor, nn

from sdqn_lab.spiking.neuron import IF, ReLU
from sdqn_lab.spiking.stats import SpikeRecorder


def trains(*steps: list[list[float]]) -> Tensor:
    """Currents (T, B, units) that an IF neuron with v_threshold 0.5 answers with equal spikes."""
    return torch.tensor(steps)


# two steps, two samples, four units: unit 0 always, 1 once, 2 never, 3 once in each sample
HAND_MADE = trains(
    [[1, 1, 0, 1], [1, 0, 0, 0]],
    [[1, 0, 0, 0], [1, 0, 0, 1]],
)


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.torso = nn.ModuleDict({"first": nn.Module(), "second": nn.Module()})
        self.torso["first"].neuron = IF(v_threshold=0.5)
        self.torso["second"].neuron = ReLU()

    def forward(self, x: Tensor) -> Tensor:
        spikes = self.torso["first"].neuron(x)
        assert isinstance(spikes, Tensor)
        answer: Tensor = self.torso["second"].neuron(1 - 2 * spikes)
        return answer


def test_counts_a_hand_made_spike_train() -> None:
    neuron = IF(v_threshold=0.5)
    with SpikeRecorder(neuron) as recorder:
        neuron(HAND_MADE)
    (stats,) = recorder.layers().values()
    assert stats.firing_rate == pytest.approx(7 / 16)
    assert stats.silent_fraction == pytest.approx(1 / 4)
    assert stats.saturated_fraction == pytest.approx(2 / 8)


def test_sums_over_forwards_of_different_length_and_batch() -> None:
    network = Two()
    with SpikeRecorder(network) as recorder:
        network(HAND_MADE)
        network(trains([[0, 0, 1, 0]]))
    stats = recorder.layers()["first"]
    assert stats.firing_rate == pytest.approx(8 / 20)
    assert stats.silent_fraction == 0
    assert stats.saturated_fraction == pytest.approx(3 / 12)


def test_names_layers_by_their_block_in_the_torso() -> None:
    network = Two()
    with SpikeRecorder(network) as recorder:
        network(HAND_MADE)
    assert list(recorder.layers()) == ["first", "second"]


def test_a_relu_is_active_where_it_is_positive() -> None:
    network = Two()
    with SpikeRecorder(network) as recorder:
        network(HAND_MADE)
    stats = recorder.layers()["second"]  # positive exactly where the first layer is silent
    assert stats.firing_rate == pytest.approx(9 / 16)
    assert stats.silent_fraction == pytest.approx(1 / 4)
    assert stats.saturated_fraction == pytest.approx(3 / 8)


def test_does_not_change_results_and_stops_with_its_context() -> None:
    network = Two()
    before = network(HAND_MADE)
    with SpikeRecorder(network) as recorder:
        assert torch.equal(network(HAND_MADE), before)
    recorded = recorder.layers()
    network(torch.ones_like(HAND_MADE))
    assert recorder.layers() == recorded


def test_nothing_is_known_before_a_forward() -> None:
    with SpikeRecorder(Two()) as recorder:
        pass
    assert recorder.layers() == {}


def test_hooks_go_when_the_forward_fails() -> None:
    network = Two()
    network.torso["second"].neuron = nn.Linear(3, 1)  # of other inputs than there are
    with pytest.raises(RuntimeError), SpikeRecorder(network):
        network(HAND_MADE)
    assert not any(module._forward_hooks for module in network.modules())
