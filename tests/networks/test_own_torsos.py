"""Heads that read one torso, or one of their own."""

import pytest
import torch

from sdqn_lab import config
from sdqn_lab.assembly import build
from sdqn_lab.networks.network import SpikingNetwork
from sdqn_lab.networks.probe import probe
from sdqn_lab.spiking.stats import SpikeRecorder
from sdqn_lab.training import health

SIZES = ["time_window=4", "network.hidden=32"]
TORSO = {"cartpole": ["hidden1", "hidden2"], "minatar_breakout": ["conv1", "hidden"]}
SHAPES = {"cartpole": (4,), "minatar_breakout": (4, 10, 10)}
each_env = pytest.mark.parametrize("env", TORSO)


def network_of(env: str, *overrides: str) -> SpikingNetwork:
    cfg = config.compose([f"env={env}", "experiment=pl_ppo", *SIZES, *overrides])
    torch.manual_seed(0)
    return build.build_network(cfg, SHAPES[env], 3)


def observations(env: str, batch: int = 16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 2, (batch, *SHAPES[env]), generator=generator).float()


def torso_gradients(network: SpikingNetwork, env: str, head: str) -> set[str]:
    """Names of the layers whose gradient of one head's outputs is not zero."""
    network.zero_grad(set_to_none=True)
    outputs = network(observations(env))
    assert isinstance(outputs, dict)
    outputs[head].square().sum().backward()  # type: ignore[no-untyped-call]
    return {name for name, norm in network.gradient_norms().items() if norm > 0}


@each_env
def test_a_shared_torso_learns_from_both_heads_and_an_own_one_from_its_head_alone(env: str) -> None:
    layers = TORSO[env]
    shared = network_of(env, "algo.shared_trunk=true")
    assert torso_gradients(shared, env, "value") == {*layers, "value"}
    assert torso_gradients(shared, env, "policy") == {*layers, "policy"}
    apart = network_of(env, "algo.shared_trunk=false")
    assert torso_gradients(apart, env, "value") == {*(f"value.{n}" for n in layers), "value"}
    assert torso_gradients(apart, env, "policy") == {*layers, "policy"}


@each_env
def test_an_own_torso_is_one_more_of_the_same(env: str) -> None:
    shared, apart = (network_of(env, f"algo.shared_trunk={way}") for way in ("true", "false"))
    names = [name for name, _ in shared.torso.named_parameters()]
    own = [name for name, _ in apart.own_torsos["value"].named_parameters()]
    assert own == names
    counts = [sum(p.numel() for p in network.parameters()) for network in (shared, apart)]
    assert counts[1] - counts[0] == sum(p.numel() for p in shared.torso.parameters())
    # Drawn one after the other: the policy's is that of the shared one, the value's is another.
    drawn = [network.torso.state_dict() for network in (shared, apart)]
    assert all(torch.equal(drawn[0][name], drawn[1][name]) for name in names)
    weight = f"{TORSO[env][0]}.linear.weight"
    assert not torch.equal(apart.own_torsos["value"].state_dict()[weight], drawn[1][weight])


def test_layers_are_named_alike_by_all_who_name_them() -> None:
    network = network_of("cartpole", "algo.shared_trunk=false")
    expected = ["hidden1", "hidden2", "value.hidden1", "value.hidden2"]
    assert [name for name, _ in network.layers()] == [*expected, "policy", "value"]
    with SpikeRecorder(network) as recorder:
        network(observations("cartpole"))
    assert list(recorder.layers()) == expected
    seen = probe(network, observations("cartpole"))
    assert [layer.name for layer in seen.layers] == [*expected, "policy", "value"]
    found = health.probe(network, observations("cartpole").numpy(), seed=0)
    assert list(found.layers) == [*expected, "policy", "value"]
    assert all(found.layers[name].firing_rate is not None for name in expected)


def test_every_torso_begins_with_what_the_encoder_gives() -> None:
    network = network_of("cartpole", "algo.shared_trunk=false")
    seen = {layer.name: layer for layer in probe(network, observations("cartpole")).layers}
    assert [seen[name].analog for name in ("hidden1", "value.hidden1")] == [True, True]
    assert [seen[name].analog for name in ("hidden2", "value.hidden2")] == [False, False]
    assert [seen[name].passes for name in ("hidden1", "value.hidden1")] == [1, 1]
    assert seen["value.hidden1"].operations == seen["hidden1"].operations


@pytest.mark.parametrize(
    ("algo", "gains"),
    [("ppo", {"policy": 0.01, "value": 1.0}), ("reinforce", {"policy": 0.01})],
)
def test_heads_start_as_orthogonal_rows_of_the_algorithms_length(
    algo: str, gains: dict[str, float]
) -> None:
    network = network_of("cartpole", f"experiment=pl_{algo}")
    assert network.heads.keys() == gains.keys()
    for name, gain in gains.items():
        weight = network.heads[name].linear.weight.detach()
        products = weight @ weight.T / gain**2
        torch.testing.assert_close(products, torch.eye(len(weight)), rtol=0, atol=1e-5)


def test_the_heads_of_value_based_algorithms_start_as_torch_does() -> None:
    weight = network_of("cartpole", "experiment=pl_pqn").readout.linear.weight.detach()
    assert weight.abs().max() <= 32**-0.5
    products = weight @ weight.T
    assert (products - products.diag().diag()).abs().max() > 1e-3
