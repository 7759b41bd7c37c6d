import json
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdqn_lab.networks.nature import Nature
from sdqn_lab.networks.network import SpikingNetwork
from sdqn_lab.spiking.neuron import Neuron
from sdqn_lab.spiking.norm import BatchNorm, NoNorm, PopNorm
from tests.golden import Case, cases, load, neuron_of, tensor
from tests.networks.helpers import build

NORMS = {
    "PopNorm": PopNorm,
    "Identity": NoNorm,
    "BatchNorm2d": BatchNorm,
    "PDBatchNorm2d": BatchNorm,
}
ORIGINAL_NAMES = {
    "torso.conv1.linear": "net.0.0",
    "torso.conv1.norm": "net.0.1",
    "torso.conv2.linear": "net.0.3",
    "torso.conv2.norm": "net.0.4",
    "torso.conv3.linear": "net.0.6",
    "torso.conv3.norm": "net.0.7",
    "torso.hidden.linear": "net.1",
    "readout.linear": "net.3",
}
each_network = pytest.mark.parametrize("path", cases("net_*"))


class Run(NamedTuple):
    """One forward and backward of our network with the weights of a case."""

    case: Case
    network: SpikingNetwork
    q: Tensor
    loss: float
    spikes: list[Tensor]


@each_network
def test_values_and_loss_are_the_originals(path: Path) -> None:
    result = run(path)
    torch.testing.assert_close(result.q, tensor(result.case["q"]), rtol=0, atol=1e-5)
    assert result.loss == pytest.approx(float(result.case["loss"]), abs=1e-5)


@each_network
def test_every_layer_fires_as_often_at_every_step_as_in_the_original(path: Path) -> None:
    case, spikes = run(path).case, run(path).spikes
    slack = 0 if float(case["min_margin"]) > 1e-6 else 1
    assert len(spikes) == 4
    for layer, layer_spikes in enumerate(spikes, start=1):
        counts = layer_spikes.flatten(1).sum(1)
        expected = tensor(case[f"spike_count_t_l{layer}"])
        assert (counts - expected).abs().max() <= slack
        silent = (layer_spikes.sum(0) == 0).double().mean().item()
        atol = slack / layer_spikes[0].numel() + 1e-7  # recorded in float32
        assert silent == pytest.approx(float(case[f"silent_frac_l{layer}"]), abs=atol)
    difference = spikes[3].sum(0) - tensor(case["h4_spike_sum"])
    assert difference.abs().sum() <= slack


@each_network
def test_gradients_are_the_originals(path: Path) -> None:
    case, network = run(path).case, run(path).network
    for k, (name, parameter) in enumerate(network.named_parameters()):
        assert parameter.grad is not None
        grad = parameter.grad.double().flatten()
        key = original_name(name)
        norm = float(case[f"gnorm/{key}"])
        slack = 1e-4 * norm + rounding(case, network, name)
        assert abs(grad.norm().item() - norm) <= slack, name
        first = tensor(case[f"gfirst16/{key}"])
        assert (grad[:16] - first).norm() <= slack, name
        if f"grad/{key}" in case:
            assert (grad - tensor(case[f"grad/{key}"]).flatten()).norm() <= slack, name
        direction = np.random.RandomState(424242 + k).standard_normal(grad.numel())
        # a projection of an error of norm e is normal with deviation e: five of them are allowed
        assert abs(grad @ tensor(direction) - float(case[f"gproj/{key}"])) <= 5 * slack, name


@pytest.mark.parametrize("path", cases("net_*BatchNorm2d*"))
def test_running_statistics_are_the_originals_after_one_update_per_step(path: Path) -> None:
    case, network = run(path).case, run(path).network
    for name, buffer in network.named_buffers():
        expected = tensor(case[f"after/{original_name(name)}"])
        torch.testing.assert_close(buffer, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("path", cases("net_full_*"))
def test_weights_of_full_networks_are_the_originals(path: Path) -> None:
    case = load(path)
    for name, parameter in with_weights(case).named_parameters():
        key = original_name(name)
        total = parameter.detach().double().sum().item()
        assert total == pytest.approx(float(case[f"psum/{key}"]), rel=1e-9, abs=1e-9)
        first = parameter.detach().flatten()[:4]
        torch.testing.assert_close(first, tensor(case[f"pfirst4/{key}"]), rtol=0, atol=0)


@cache
def run(path: Path) -> Run:
    case = load(path)
    network = with_weights(case).train()
    spikes: list[Tensor] = []
    for module in network.modules():
        if isinstance(module, Neuron):
            module.register_forward_hook(lambda _module, _inputs, out: spikes.append(out.detach()))
    q = network(tensor(case["obs"]))
    loss = F.mse_loss(q, tensor(case["target"]))
    loss.backward()
    return Run(case, network, q.detach(), loss.item(), spikes)


def with_weights(case: Case) -> SpikingNetwork:
    full = "32/64/64/512" in str(case["arch"])
    sizes = {} if full else {"channels": (4, 8, 8), "hidden": 32}
    network = build(
        lambda: neuron_of(case),
        NORMS[str(case["norm"])],
        torso=Nature,
        shape=(4, 84, 84),
        num_actions=case["q"].shape[1],
        time_window=int(case["T"]),
        observation_scale=255.0,
        seed=int(case["seed"]),
        **sizes,
    )
    if str(case["init"]) == "torch_default":
        return network
    with torch.no_grad():
        if full:
            follow_recipe(network, case)
        else:
            for name, value in network.state_dict().items():
                value.copy_(tensor(case[f"param/{original_name(name)}"]))
    return network


def follow_recipe(network: SpikingNetwork, case: Case) -> None:
    gains = json.loads(str(case["gains"]))
    for k, (name, parameter) in enumerate(network.named_parameters()):
        module = network.get_submodule(name.rpartition(".")[0])
        draw = np.random.RandomState(int(case["seed"]) + 100 * k)
        if isinstance(module, nn.Conv2d | nn.Linear):
            gain = gains.get(original_name(name).rpartition(".")[0], 1.0)
            bound = gain / np.sqrt(module.weight[0].numel())
            start = 0.0
        else:
            bound = 0.1
            start = norm_start(str(case["norm"]), name)
        values = draw.uniform(-bound, bound, size=tuple(parameter.shape)).astype(np.float32)
        parameter.copy_(start + tensor(values))


def norm_start(norm: str, name: str) -> float:
    if name.endswith("weight"):
        return 1.0
    return 0.2 if norm == "PDBatchNorm2d" else 0.0


def original_name(name: str) -> str:
    module, _, attribute = name.rpartition(".")
    return f"{ORIGINAL_NAMES[module]}.{attribute}"


def rounding(case: Case, network: SpikingNetwork, name: str) -> float:
    """What float32 leaves of a gradient that is zero: a bias that a batch norm takes out again."""
    module, _, attribute = name.rpartition(".")
    block = module.removesuffix(".linear")
    if attribute != "bias" or not module.endswith("linear"):
        return 0.0
    if not isinstance(network.get_submodule(f"{block}.norm"), BatchNorm):
        return 0.0
    return 1e-5 * float(case[f"gnorm/{original_name(f'{module}.weight')}"])
