"""The arithmetic of energy, against sums by hand."""

import json
from dataclasses import asdict
from typing import Any

import pytest
import torch

from sdqn_lab.analysis.energy import HOROWITZ, Technology, cost
from sdqn_lab.checks.refused import Refused
from sdqn_lab.networks.mlp import MLP
from sdqn_lab.networks.probe import probe
from sdqn_lab.spiking.neuron import IF, ReLU
from sdqn_lab.spiking.norm import NoNorm
from tests.networks.helpers import build


def layer(
    *, analog: bool, passes: int, operations: float, synapses: int, parameters: int
) -> dict[str, Any]:
    return {
        "analog": analog,
        "passes": passes,
        "operations": operations,
        "synapses": synapses,
        "parameters": parameters,
    }


SPIKING = {
    "version": 1,
    "time_window": 4,
    "layers": [
        layer(analog=True, passes=1, operations=100.0, synapses=200, parameters=5),
        layer(analog=False, passes=4, operations=50.0, synapses=30, parameters=7),
        layer(analog=False, passes=4, operations=2.5, synapses=3, parameters=3),
    ],
}
BASELINE = {
    "version": 1,
    "time_window": 1,
    "layers": [
        layer(analog=True, passes=1, operations=100.0, synapses=200, parameters=5),
        layer(analog=True, passes=1, operations=20.0, synapses=30, parameters=7),
        layer(analog=True, passes=1, operations=1.5, synapses=3, parameters=3),
    ],
}


def test_the_table_is_that_of_horowitz() -> None:
    assert (HOROWITZ.mac_pj, HOROWITZ.ac_pj) == (pytest.approx(3.7 + 0.9), 0.9)


def test_a_spiking_network_multiplies_numbers_and_adds_for_spikes() -> None:
    found = cost(SPIKING)
    assert (found.parameters, found.mac, found.ac) == (15, 100, 52.5)
    assert found.energy_nj == pytest.approx((100 * 4.6 + 52.5 * 0.9) / 1000)


def test_without_a_cache_the_first_map_is_paid_at_every_step() -> None:
    found = cost(SPIKING)
    assert found.mac_every_step == 4 * 100
    assert found.energy_every_step_nj == pytest.approx((400 * 4.6 + 52.5 * 0.9) / 1000)


def test_dense_counts_every_synapse_once_a_pass() -> None:
    found = cost(SPIKING)
    assert found.dense_mac == 200 + 4 * 30 + 4 * 3
    assert found.dense_energy_nj == pytest.approx(332 * 4.6 / 1000)


def test_the_ann_baseline_multiplies_everywhere_skips_its_zeros_and_has_no_steps() -> None:
    found = cost(BASELINE)
    assert (found.mac, found.mac_every_step, found.ac) == (121.5, 121.5, 0)
    assert found.dense_mac == 200 + 30 + 3
    assert found.energy_nj == found.energy_every_step_nj == pytest.approx(121.5 * 4.6 / 1000)


def test_a_critic_beside_a_policy_has_parameters_but_no_part_in_a_decision() -> None:
    critic = layer(analog=True, passes=1, operations=9.0, synapses=9, parameters=9)
    names = ("value.hidden1", "value_readout.population", "value")
    policy, *others = ({**one, "name": "policy"} for one in SPIKING["layers"])
    acts = [policy, *(one | {"name": "hidden2"} for one in others)]
    found = cost(SPIKING | {"layers": [*acts, *(critic | {"name": name} for name in names)]})
    assert found.parameters == 15 + 27
    assert (found.mac, found.ac, found.dense_mac) == (100, 52.5, cost(SPIKING).dense_mac)
    # Without a policy a head of this name decides.
    alone = cost(SPIKING | {"layers": [critic | {"name": "value"}]})
    assert alone.mac == 9


def test_another_technology_has_its_own_prices() -> None:
    found = cost(SPIKING, Technology("ours", mac_pj=1000.0, ac_pj=10.0))
    assert found.energy_nj == pytest.approx(100 + 52.5 / 100)


@pytest.mark.parametrize(("neuron", "mac", "ac"), [(IF, 2 * 3, 2 * 3), (ReLU, 2 * 3 + 3, 0)])
def test_a_probed_network_is_understood_after_json(
    neuron: type[Any], mac: float, ac: float
) -> None:
    """Two inputs, three units that are active at both steps, one value."""
    network = build(
        neuron, NoNorm, torso=MLP, shape=(2,), hidden=3, layers=1, num_actions=1, time_window=2
    )
    network.get_submodule("torso.hidden1.linear").weight.data.fill_(1.0)  # type: ignore[operator,union-attr]
    seen = {"version": 1, "step": 0, **asdict(probe(network, torch.full((5, 2), 3.0)))}
    found = cost(json.loads(json.dumps(seen)))
    assert (found.mac, found.ac, found.parameters) == (mac, ac, 2 * 3 + 3 + 3)


@pytest.mark.parametrize("version", [None, 0, 2, "1"])
def test_another_version_is_refused(version: object) -> None:
    with pytest.raises(Refused) as caught:
        cost({**SPIKING, "version": version})
    assert (caught.value.key, caught.value.value) == ("version", version)


@pytest.mark.parametrize("key", ["time_window", "layers"])
def test_a_missing_key_is_named(key: str) -> None:
    with pytest.raises(Refused) as caught:
        cost({name: value for name, value in SPIKING.items() if name != key})
    assert caught.value.key == key


@pytest.mark.parametrize("key", ["analog", "passes", "operations", "synapses", "parameters"])
def test_a_key_that_a_layer_lacks_is_named(key: str) -> None:
    torn = {name: value for name, value in BASELINE["layers"][0].items() if name != key}  # type: ignore[index]
    with pytest.raises(Refused) as caught:
        cost({**BASELINE, "layers": [torn]})
    assert caught.value.key == key
