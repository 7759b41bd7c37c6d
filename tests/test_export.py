"""`python -m sdqn_lab.export`: what is written, read back and run by NIR's own definition."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf

import sdqn_lab
from sdqn_lab import config, export
from sdqn_lab.build import build_env, build_network
from sdqn_lab.config.stored import stored_config
from sdqn_lab.exporting import graph as graphs
from sdqn_lab.exporting.calibration import Agreement, Reservoir, calibrated, observed
from sdqn_lab.exporting.folding import affine, unrolled
from sdqn_lab.networks.mlp import MLP
from sdqn_lab.networks.nature import Nature
from sdqn_lab.networks.network import SpikingNetwork
from sdqn_lab.spiking.encoder import Delta, Latency
from sdqn_lab.spiking.neuron import IF, LIF, PLIF, SpikingNeuron
from sdqn_lab.spiking.norm import BatchNorm, NoNorm, PopNorm
from sdqn_lab.spiking.readout import (
    DiscountedSpikes,
    FirstSpike,
    LastMembrane,
    MaxMembrane,
    MeanMembrane,
    MeanSpikes,
    Readout,
)
from sdqn_lab.spiking.stats import neurons
from sdqn_lab.training.cell import save_network
from sdqn_lab.training.evaluation import Start
from sdqn_lab.watching.player import Player
from tests import golden
from tests.networks.helpers import build

READOUTS = [DiscountedSpikes, FirstSpike, LastMembrane, MaxMembrane, MeanMembrane, MeanSpikes]
SHAPE = (2, 8, 7)
DOCUMENT = (Path(__file__).parents[1] / "docs" / "EXPORT.md").read_text()
Reader = Callable[[torch.Tensor], dict[str, torch.Tensor]]
"""Of inputs (T, B, ...): what every node answers, (T, B, ...)."""


# NIR by its definition


def lif(node: nir.LIF | nir.LI, currents: torch.Tensor) -> torch.Tensor:
    """tau dv/dt = (v_leak - v) + r I by forward Euler; currents (T, B, ...) to spikes, or to v."""
    v, seen = torch.zeros_like(currents[0]), []
    for current in currents:
        v = v + graphs.DT / node.tau * ((node.v_leak - v) + node.r * current)
        fires = v > getattr(node, "v_threshold", np.inf)
        seen.append(fires.float() if isinstance(node, nir.LIF) else v)
        v = torch.where(fires, getattr(node, "v_reset", 0.0) * torch.ones(()), v)
    return torch.stack(seen)


def integrator(node: nir.IF | nir.I, currents: torch.Tensor) -> torch.Tensor:
    """dv/dt = r I, likewise."""
    v, seen = torch.zeros_like(currents[0]), []
    for current in currents:
        v = v + graphs.DT * node.r * current
        fires = v > getattr(node, "v_threshold", np.inf)
        seen.append(fires.float() if isinstance(node, nir.IF) else v)
        v = torch.where(fires, 0.0, v)
    return torch.stack(seen)


def convolution(node: nir.Conv2d, x: torch.Tensor) -> torch.Tensor:
    settings = {
        key: tuple(map(int, getattr(node, key))) for key in ("stride", "padding", "dilation")
    }
    y = F.conv2d(x.flatten(0, 1), node.weight, node.bias, groups=int(node.groups), **settings)
    return y.unflatten(0, x.shape[:2])


DEFINITIONS = {
    nir.Input: lambda node, x: x,
    nir.Output: lambda node, x: x,
    nir.Conv2d: convolution,
    nir.Affine: lambda node, x: F.linear(x, node.weight, node.bias),
    nir.Linear: lambda node, x: F.linear(x, node.weight),
    nir.Flatten: lambda node, x: x.flatten(int(node.start_dim), int(node.end_dim)),
    nir.LIF: lif,
    nir.LI: lif,
    nir.IF: integrator,
    nir.I: integrator,
    nir.Threshold: lambda node, x: (x > node.threshold).float(),
}


def run(graph: nir.NIRGraph, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """What every node answers (T, B, ...) to an input (T, B, ...)."""
    following, name, answers = dict(graph.edges), "input", {}
    while name:
        node = graph.nodes[name]
        for key, value in vars(node).items():
            if isinstance(value, np.ndarray) and value.dtype == np.float32:
                setattr(node, key, torch.from_numpy(value))
        x = answers[name] = DEFINITIONS[type(node)](node, x)
        name = following.get(name)
    return answers


def host(metadata: dict[str, Any], outputs: torch.Tensor) -> torch.Tensor:
    """The values (B, A) as a host makes them of outputs (T, B, A)."""
    if metadata["statistic"] == "max":
        return outputs.amax(0)
    weights = torch.tensor(metadata["statistic_weights"], dtype=torch.float32)
    return torch.tensordot(weights, outputs, dims=1)


def through_a_file(network: SpikingNetwork, shape: tuple[int, ...]) -> nir.NIRGraph:
    assert not list(graphs.obstacles(network, "q", calibrated=False))
    metadata = graphs.statistic(network.heads["q"], network.time_window)
    nir.write("graph.nir", graphs.nir_graph(network, "q", shape, metadata))
    return nir.read("graph.nir")


@torch.no_grad()
def layers(network: SpikingNetwork, observations: torch.Tensor) -> dict[str, torch.Tensor]:
    """Spikes (T, B, ...) of every layer, and the values under `values`."""
    network, seen = network.eval(), {}
    keep = lambda name, module, inputs, spikes: seen.update({name: spikes})  # noqa: E731
    hooks = [m.register_forward_hook(partial(keep, name)) for name, m in neurons(network)]
    seen["values"] = network(observations)
    for hook in hooks:
        hook.remove()
    return seen


def agrees(network: SpikingNetwork, observations: torch.Tensor) -> nir.NIRGraph:
    """The network and its graph: equal spikes in every layer, equal values."""
    graph = through_a_file(network, tuple(observations.shape[1:]))
    ours = layers(network, observations)
    x = observations.float()
    if graphs.scale_in_weights(network) == 1:
        x = x / network.observation_scale
    x = network.encoder(x, network.time_window)
    theirs = run(graph, x.expand(network.time_window, *x.shape[1:]))
    values = host(graph.metadata, theirs["output"])
    torch.testing.assert_close(values, ours.pop("values"), atol=2e-6, rtol=1e-5)
    for name, spikes in ours.items():
        assert 0 < spikes.mean() < 1, name
        assert torch.equal(theirs[name].reshape(spikes.shape), spikes), name
    return graph


def binary(*shape: int, seed: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2, shape, generator=generator, dtype=torch.uint8)


def stirred(network: SpikingNetwork, seed: int = 1) -> SpikingNetwork:
    """Norms as training leaves them: no weight, bias or statistic is that of another."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, BatchNorm | PopNorm | SpikingNeuron):
            for tensor in (*module.parameters(), *module.buffers()):
                tensor.data += torch.rand(tensor.shape, generator=generator) / 2
    return network.eval()


NEURONS = {
    "lif": LIF,
    "lif_3": partial(LIF, tau=3.0, v_threshold=0.7),
    "no memory": partial(LIF, tau=1.0, v_threshold=0.5),
    "plif": partial(PLIF, tau=2.7),
    "if": IF,
    "a threshold a channel": partial(LIF, learn_threshold="channel"),
    "one learned threshold": partial(IF, learn_threshold="layer"),
}


@pytest.mark.parametrize("norm", [NoNorm, BatchNorm])
@pytest.mark.parametrize("neuron", NEURONS)
def test_a_graph_that_is_read_back_gives_equal_spikes_in_every_layer(neuron, norm):
    network = build(NEURONS[neuron], norm, gain=8.0, normalize_hidden=True)
    graph = agrees(stirred(network), binary(6, *SHAPE))
    assert graph.metadata["norms_in"] == "maps"
    assert isinstance(
        graph.nodes["conv1"], nir.IF if "one" in neuron or neuron == "if" else nir.LIF
    )
    assert list(dict(graph.edges)) == [
        *("input", "conv1_map", "conv1", "hidden_flatten", "hidden_map", "hidden", "readout_map")
    ]


@pytest.mark.parametrize("readout", READOUTS)
def test_every_readout_is_a_graph_and_a_statistic_of_its_outputs(readout):
    agrees(build(LIF, NoNorm, readout, gain=8.0), binary(6, *SHAPE))


@pytest.mark.parametrize("observation_scale", [1.0, 255.0])
@pytest.mark.parametrize("encoder", [Delta, Latency])
def test_other_encoders_are_left_to_the_host_with_the_scale(encoder, observation_scale):
    network = build(
        *(LIF, NoNorm),
        encoder=encoder,
        shape=(4, 8, 7),
        observation_scale=observation_scale,
        gain=8.0,
    )
    assert graphs.scale_in_weights(network) == 1
    agrees(network, binary(6, 4, 8, 7) * int(observation_scale))


@pytest.mark.parametrize("norm", [NoNorm, BatchNorm])
def test_under_direct_encoding_the_first_weights_hold_the_scale(norm):
    network = stirred(build(LIF, norm, observation_scale=255.0, gain=8.0))
    graph = agrees(network, binary(6, *SHAPE) * 255)
    plain = affine(network.torso.conv1.norm).gain.view(-1, 1, 1, 1)
    expected = network.torso.conv1.linear.weight.detach() * plain / 255
    np.testing.assert_allclose(graph.nodes["conv1_map"].weight, expected, rtol=1e-6)


def test_networks_for_frames_and_for_vectors_are_chains_too():
    sizes = {"channels": (4, 4, 4), "hidden": 16}
    nature = build(LIF, NoNorm, torso=Nature, shape=(4, 36, 36), gain=5.0, **sizes)
    graph = agrees(nature, binary(3, 4, 36, 36))
    assert tuple(graph.nodes["conv1_map"].stride) == (4, 4)
    mlp = build(LIF, BatchNorm, torso=MLP, shape=(4,), hidden=16, gain=6.0)
    agrees(stirred(mlp), torch.randn(8, 4, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("path", golden.cases("nir_*"))
def test_graphs_run_as_in_the_tools_that_read_them(path):
    case = golden.load(path)
    x, steps = golden.tensor(case["x"]), int(case["T"])
    settings = {"v_threshold": float(case["v_threshold"])}
    if str(case["neuron"]) == "LIF":
        settings["tau"] = float(case["tau"])
    network = build(
        partial(golden_neuron(case), **settings),
        NoNorm,
        shape=x.shape[2:],
        num_actions=len(case["out_weight"]),
        channels=(len(case["conv_weight"]),),
        hidden=len(case["fc_weight"]),
        time_window=steps,
    )
    names = {"torso.conv1": "conv", "torso.hidden": "fc", "readout": "out"}
    for name, theirs in names.items():
        linear = network.get_submodule(f"{name}.linear")
        linear.weight.data = golden.tensor(case[f"{theirs}_weight"])
        if linear.bias is not None:
            linear.bias.data = golden.tensor(case[f"{theirs}_bias"])
    graph = through_a_file(network, tuple(x.shape[2:]))
    assert float(case["dt"]) == graphs.DT
    answers = run(graph, x)
    with torch.no_grad():
        hidden = network.torso(x, steps)
    assert torch.equal(answers["conv1"], golden.tensor(case["spikes1"]))
    for spikes in (answers["hidden"], hidden):
        assert torch.equal(spikes, golden.tensor(case["spikes2"]))
    torch.testing.assert_close(answers["output"], golden.tensor(case["output"]))
    torch.testing.assert_close(host(graph.metadata, answers["output"]), golden.tensor(case["q"]))


def golden_neuron(case: golden.Case) -> type[LIF | IF]:
    return {"LIF": LIF, "IF": IF}[str(case["neuron"])]


def test_the_reader_in_the_documents_reads_alike():
    (code,) = re.findall(r"^```python\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)
    exec(compile(code, "EXPORT.md", "exec"), names := {})
    row = np.linspace(0.5, 1.5, 7, dtype=np.float32)
    tau, zeros = np.full(7, 3e-4, np.float32), np.zeros(7, np.float32)
    node = nir.LIF(tau=tau, r=row, v_leak=0.1 * row, v_threshold=row, v_reset=zeros)
    currents = np.random.default_rng(0).uniform(0, 4, (12, 7)).astype(np.float32)
    theirs = np.stack(names["lif"](node, currents))
    assert 0 < theirs.mean() < 1
    ours = run(nir.NIRGraph({"input": node}, [], type_check=False), torch.from_numpy(currents))
    np.testing.assert_array_equal(theirs, ours["input"].numpy())


def test_the_documents_name_all_metadata(stored, command):
    assert command(stored(*RUNS["pop"]), "--nir", "net.nir", "--calibrate-norm", 5).code == 0
    missing = [key for key in nir.read("net.nir").metadata if f"`{key}`" not in DOCUMENT]
    assert missing == []


# Calibration


def fixed(network: SpikingNetwork, observations: torch.Tensor) -> SpikingNetwork:
    return calibrated(network.eval(), observations.numpy())


def test_calibration_fixes_each_layer_to_the_moments_of_all_its_currents():
    network = stirred(build(LIF, PopNorm, torso=MLP, shape=(4,), hidden=16, normalize_hidden=True))
    x = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    found, activity = fixed(network, x), x.unsqueeze(0)
    for name, block in network.torso.named_children():
        with torch.no_grad():
            currents = block.linear(activity.double().float())
            mean, var = currents.mean(), currents.var(correction=0)
            norm = block.norm
            z = (currents - mean) / (var + norm.eps).sqrt() * norm.weight + norm.bias
            activity = block.neuron(z.expand(network.time_window, *z.shape[1:]))
            mine = found.torso.get_submodule(name).norm(currents)
        torch.testing.assert_close(mine, z)
    with torch.no_grad():
        torch.testing.assert_close(found(x), network.readout(activity))
    # The network itself stays as it is.
    assert all(type(block.norm) is PopNorm for block in network.torso.children())


def test_the_moments_do_not_depend_on_batches(monkeypatch):
    network, x = stirred(build()), binary(50, *SHAPE)
    whole = fixed(network, x)
    monkeypatch.setattr("sdqn_lab.exporting.calibration.BATCH", 7)
    parts = fixed(network, x)
    torch.testing.assert_close(whole.state_dict(), parts.state_dict())


@pytest.mark.parametrize("limit", [graphs.MAX_DENSE, 1])
@pytest.mark.parametrize("channels", [(4,), (4, 3)])
def test_a_calibrated_network_is_a_graph_of_equal_spikes(channels, limit, monkeypatch):
    """As dense matrices, or in the neurons where those would be too large."""
    monkeypatch.setattr(graphs, "MAX_DENSE", limit)
    observations = binary(30, *SHAPE)
    sizes = {"channels": channels, "hidden": 16, "normalize_hidden": True}
    network = fixed(stirred(build(gain=2.0, observation_scale=3.0, **sizes)), observations)
    graph = agrees(network, observations)
    assert graph.metadata["norms_in"] == ("neurons" if limit == 1 else "dense")
    assert isinstance(graph.nodes["conv1_map"], nir.Conv2d if limit == 1 else nir.Affine)


def test_IF_has_no_leak_to_hold_a_norm_which_is_said_before_anything_is_played(
    stored, command, monkeypatch
):
    run_dir = stored("neuron=if", "norm=popnorm")
    monkeypatch.setattr(graphs, "MAX_DENSE", 1)
    monkeypatch.setattr("sdqn_lab.exporting.session.observed", None)
    answer = command(run_dir, "--nir", "net.nir", "--calibrate-norm", 9)
    answer.refuses("error: neuron=IF: ")
    assert answer.lines[0].endswith("; write neuron=lif or norm=batchnorm")


@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (2, 0), (2, 1)])
def test_an_unrolled_convolution_is_the_convolution(stride, padding):
    torch.manual_seed(0)
    linear = torch.nn.Conv2d(2, 3, 3, stride, padding)
    weight, bias = unrolled(linear, SHAPE, scale=5.0)
    x = torch.randn(4, *SHAPE)
    with torch.no_grad():
        expected = linear(x / 5).flatten(1)
    torch.testing.assert_close((x.flatten(1).double() @ weight.t() + bias).float(), expected)


def test_a_reservoir_keeps_every_row_of_a_stream_equally_often():
    counts = np.zeros(12)
    for seed in range(3_000):
        kept = Reservoir(4, np.random.default_rng(seed))
        for first in range(0, 12, 3):
            kept.add(np.arange(first, first + 3)[:, None])
        assert len(kept.rows) == len({int(row[0]) for row in kept.rows}) == 4
        counts[np.concatenate(kept.rows)] += 1
    # Each row is kept in 1,000 of 3,000 cases, with a standard deviation of 26.
    assert abs(counts - 1_000).max() < 5 * 26


# The command


SMALL = [
    *("env=minatar_breakout", "network.channels=[4]", "network.hidden=16", "time_window=3"),
    *("network.normalize_hidden=true", "protocol.eval_episodes=3", "threads=1", "device=cpu"),
    *("protocol.episode_cap_frames=60", "tracker=none"),
]
RUNS = {
    "plain": ["norm=none"],
    "pop": ["norm=popnorm", "algo=pqn"],
    "quantiles": ["algo=qr_dqn", "norm=batchnorm", "readout=last_membrane"],
    "batchnorm": ["norm=batchnorm"],
    "poisson": ["encoder=poisson", "norm=popnorm"],
}


@pytest.fixture
def stored():
    """A run directory of a network as it was initialized, its maps made stronger."""

    def directory(*overrides: str) -> Path:
        path = Path("run")
        path.mkdir()
        cfg = config.compose([*SMALL, *overrides])
        (path / "config.yaml").write_text(OmegaConf.to_yaml(cfg))
        env = build_env(cfg, 1)
        torch.manual_seed(0)
        network = build_network(cfg, env.observation_shape, env.num_actions)
        for module in network.modules():
            if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
                module.weight.data *= 8
        ends = env.observation_shape, env.num_actions
        for which in ("last", "best"):
            save_network(stirred(network), path / f"network_{which}.safetensors", *ends)
        return path

    return directory


@pytest.fixture
def command(carry_out):
    return partial(carry_out, export.main)


def test_a_run_becomes_a_graph_with_all_that_a_host_must_know(stored, command):
    run_dir = stored("norm=none", "time_window_eval=5")
    code, out, err = command(run_dir, "--nir", "net.nir", "--network", "best")
    assert (code, err) == (0, "")
    assert out.startswith("net.nir (0.") and "conv1_map Conv2d, conv1 LIF" in out
    graph = nir.read("net.nir")
    expected = {
        "sdqn_lab": sdqn_lab.__version__,
        "game": "minatar_breakout",
        "network": "best",
        "seed": 0,
        "time_window": 5,
        "dt": 1e-4,
        "encoder": "Direct",
        "encoder_arguments": "{}",
        "observation_scale": 1.0,
        "observation_scale_in": "weights",
        "head": "q",
        "outputs": "Q-values",
        "statistic": "sum",
        "norms_in": "maps",
    }
    assert {key: graph.metadata[key] for key in expected} == expected
    assert graph.metadata["protocol"].startswith("minatar: sticky actions 0.1")
    assert graph.metadata["decision"].startswith("The action of the largest value")
    names = json.loads(graph.metadata["action_names"])
    assert names == ["no-op", "left", "up", "right", "down", "fire"]
    np.testing.assert_allclose(graph.metadata["statistic_weights"], 5 * [1 / 5])


@pytest.mark.parametrize("name", ["plain", "quantiles"])
def test_whole_episodes_are_decided_alike_by_the_graph_in_the_file(name, stored, command):
    run_dir = stored(*RUNS[name])
    assert command(run_dir, "--nir", "net.nir").code == 0
    graph = nir.read("net.nir")
    same, decisions = episodes(sdqn_lab.load(run_dir), graph, partial(run, graph))
    assert same == decisions > 25


def episodes(player: Player, graph: nir.NIRGraph, reader: Reader) -> tuple[int, int]:
    """Decisions of whole episodes that a graph makes, and how many of them the player makes too."""
    env, found = player.make_env(1), []
    for seed in range(5):
        observations, ended = env.reset(seed), False
        while not ended:
            x = torch.from_numpy(observations).float()
            outputs = reader(x.expand(player.time_window, *x.shape))["output"]
            values = player.policy.values(host(graph.metadata, outputs))
            assert len(values.unique()) == player.num_actions
            found.append(bool(values.argmax(1).item() == player.act(observations)[0]))
            step = env.step(values.argmax(1).numpy())
            observations, ended = step.observations, bool((step.terminated | step.truncated)[0])
    return sum(found), len(found)


@pytest.mark.parametrize("name", ["pop", "poisson"])
def test_calibration_says_what_it_changed_and_plays_both_networks(name, stored, command):
    run_dir = stored(*RUNS[name])
    asked = run_dir, "--nir", "net.nir", "--calibrate-norm", 40, "--episodes", 4
    code, out, err = command(*asked)
    assert (code, err) == (0, "")
    metadata = nir.read("net.nir").metadata
    same, decisions = map(int, metadata["calibration_same_decisions"])
    assert 0 < same < decisions
    assert f"{same:,} of {decisions:,} ({same / decisions:.1%}) while the first" in out
    assert " of 40 (" in out
    assert metadata["calibration_observations"] == 40
    for row in ("statistics of each sample", "statistics fixed"):
        (line,) = [line for line in out.splitlines() if f"│ {row} " in line]
        assert "[" in line and "decisions" in line
    # The same command says the same.
    assert command(*asked).out == out


def test_a_network_agrees_with_itself_in_every_decision_however_it_draws(stored):
    player = sdqn_lab.load(stored(*RUNS["poisson"]))
    agreement = Agreement(player, player)
    for _ in range(3):
        agreement.ask(np.ones((5, 4, 10, 10), np.uint8))
    assert str(agreement) == "15 of 15 (100.0%)"


UNSAYABLE = [
    (["norm=popnorm"], "norm=PopNorm", "--calibrate-norm=1000, norm=batchnorm or norm=none"),
    (["norm=none", "neuron.reset=soft"], "neuron.reset=soft", "neuron.reset=hard"),
    (["norm=none", "neuron.v_reset=-0.5"], "neuron.v_reset=-0.5", "neuron.v_reset=0"),
    (["experiment=dqn"], "neuron=ReLU", "neuron=lif"),
    (["norm=none", "precision=bf16"], "precision=bf16", "precision=float32"),
]


@pytest.mark.parametrize(("overrides", "what", "instead"), UNSAYABLE, ids=lambda v: str(v)[:40])
def test_what_NIR_cannot_say_is_refused_in_one_line(overrides, what, instead, stored, command):
    run_dir = stored(*overrides)
    before = sorted(run_dir.iterdir())
    answer = command(run_dir, "--nir", "net.nir")
    answer.refuses(f"error: {what}: ")
    assert answer.lines[0].endswith(f"; write {instead}")
    assert [path.name for path in Path.cwd().iterdir()] == ["run"]
    assert sorted(run_dir.iterdir()) == before


def test_everything_that_NIR_cannot_say_is_said_at_once(stored, command):
    answer = command(stored("norm=popnorm", "neuron.reset=soft"), "--nir", "net.nir")
    assert [line.partition("=")[0] for line in answer.lines] == [
        "error: neuron.reset",
        "error: norm",
    ]


def test_classes_that_nobody_mapped_are_refused_by_name():
    class Mine(LIF, NoNorm, Readout):  # type: ignore[misc]
        pass

    def refusals(network: SpikingNetwork) -> list[str]:
        return [f"{each.key}={each.value}" for each in graphs.obstacles(network, "q", True)]

    network = build(LIF, NoNorm)
    for part, owner, name in (
        ("neuron", network.torso.hidden, "neuron"),
        ("norm", network.torso.hidden, "norm"),
        ("readout", network, "readout"),
    ):
        whole = getattr(owner, part)
        other = type("Mine", (type(whole),), {})
        whole.__class__ = other
        assert refusals(network) == [f"{name}=Mine"]
        whole.__class__ = other.__base__
    network.readout.linear.weight.data[0] = torch.nan
    assert refusals(network) == ["network=None"]
    network.readout.linear.weight.data[0] = 0
    network.encoder.register_parameter("w", torch.nn.Parameter(torch.ones(1)))
    assert refusals(network) == ["encoder=Direct"]
    network.torso.hidden.linear = torch.nn.Bilinear(2, 2, 2)
    assert refusals(network) == ["network=MinAtar"]


WRONG = [
    ("", "the following arguments are required: RUN_DIR, --nir", ""),
    ("RUN", "the following arguments are required: --nir", ""),
    ("nowhere --nir a.nir", "nowhere/config.yaml", ""),
    ("RUN --nir a.onnx", "--nir=a.onnx", "--nir=a.nir or --nir=a.h5 or --nir=a.hdf5"),
    ("RUN --nir no/a.nir", "--nir=no/a.nir", "--nir=FILE, a file where there is room"),
    ("RUN --nir RUN.nir", "--nir=RUN.nir", "--nir=FILE, a file where there is room"),
    ("RUN --nir a.nir --network first", "--network=first", "--network=last"),
    ("RUN --nir a.nir --calibrate-norm 0", "--calibrate-norm=0", "--calibrate-norm=1000"),
    ("RUN --nir a.nir --calibrate-norm x", "--calibrate-norm=x", "--calibrate-norm=1000"),
    ("RUN --nir a.nir --calibrate-norm 10001", "--calibrate-norm=10001", "--calibrate-norm=1000"),
    ("RUN --nir a.nir --calibrate-norm 9", "--calibrate-norm=9", ""),
    ("RUN --nir a.nir --episodes 9", "--episodes=9", "--episodes=9 --calibrate-norm=1000"),
    ("RUN --nir a.nir --bogus", "unrecognized arguments: --bogus", ""),
]


@pytest.mark.parametrize(("line", "what", "instead"), WRONG, ids=[line for line, *_ in WRONG])
def test_a_wrong_command_is_answered_in_one_line(line, what, instead, stored, command):
    run_dir = stored("norm=none")
    Path("RUN.nir").mkdir()
    answer = command(*[run_dir if word == "RUN" else word for word in line.split()])
    answer.refuses(f"error: {what}: ")
    assert answer.lines[0].endswith(f"; write {instead}" if instead else "")
    assert sorted(path.name for path in Path.cwd().iterdir()) == ["RUN.nir", "run"]


def test_without_nir_one_line_says_what_to_install(stored, command, monkeypatch):
    run_dir = stored("norm=none")
    monkeypatch.setitem(sys.modules, "nir", None)
    answer = command(run_dir, "--nir", "net.nir")
    answer.refuses("error: --nir: needs the package nir")
    assert answer.lines[0].endswith("; write pip install 'sdqn_lab[nir]'")


def test_a_full_disk_leaves_the_file_of_before(stored, command, monkeypatch):
    run_dir = stored("norm=none")
    Path("net.nir").write_text("the one of before")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    command(run_dir, "--nir", "net.nir").refuses("--nir=net.nir: cannot be written, No space left")
    assert Path("net.nir").read_text() == "the one of before"
    assert sorted(path.name for path in Path.cwd().iterdir()) == ["net.nir", "run"]


@pytest.mark.parametrize("key", ["neuron", "env", "encoder"])
def test_a_run_that_names_code_of_others_needs_trust_and_executes_nothing(
    key, stored, command, monkeypatch
):
    def executed(*arguments: object, **more: object) -> None:
        raise AssertionError(f"executed {arguments}")

    run_dir = stored("norm=none")
    file = run_dir / "config.yaml"
    text = file.read_text()
    old = stored_config(file, trust=False)[key]._target_
    file.write_text(text.replace(f"_target_: {old}", "_target_: subprocess.Popen"))
    monkeypatch.setattr(subprocess.Popen, "__init__", executed)
    answer = command(run_dir, "--nir", "net.nir")
    answer.refuses(f"{key}._target_=subprocess.Popen | write --trust")
    assert not Path("net.nir").exists()


def test_a_damaged_network_is_named(stored, command):
    run_dir = stored("norm=none")
    file = run_dir / "network_last.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    command(run_dir, "--nir", "net.nir").refuses("network_last.safetensors")


def test_the_module_answers_as_a_command(stored):
    arguments = [sys.executable, "-m", "sdqn_lab.export", str(stored("norm=none"))]
    done = subprocess.run(
        [*arguments, "--nir", "net.nir"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert nir.read("net.nir").nodes


# The graph in another library


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain", "batchnorm", "pop"])
def test_snntorch_fires_equal_spikes_and_decides_whole_episodes_alike(name, stored):
    pytest.importorskip("snntorch")
    player = sdqn_lab.load(stored(*RUNS[name]))
    if name == "pop":
        seen = observed(player, Start(0, 0), 200, 3)
        player = Player(player.cfg, calibrated(player.network, seen), player.num_actions)
    shape = (4, 10, 10)
    graph = through_a_file(player.network, shape)
    reader = in_snntorch(graph)
    theirs, ours = (
        reader(binary(6, *shape).expand(3, -1, -1, -1, -1).float()),
        layers(player.network, binary(6, *shape)),
    )
    for layer in ("conv1", "hidden"):
        assert 0 < ours[layer].mean() < 1
        assert torch.equal(theirs[layer].view_as(ours[layer]), ours[layer])
    same, decisions = episodes(player, graph, reader)
    assert same == decisions > 25


def in_snntorch(graph: nir.NIRGraph) -> Reader:
    """Inputs (T, B, ...) to the spikes of every layer and the outputs, all by snnTorch."""
    import snntorch
    from snntorch.import_nir import import_from_nir

    network, seen = import_from_nir(graph), {}
    leaky = {n: m for n, m in network.named_modules() if isinstance(m, snntorch.Leaky)}
    assert list(leaky) == ["conv1", "hidden"]
    for name, module in leaky.items():
        module.register_forward_hook(lambda m, i, o, name=name: seen[name].append(o))

    @torch.no_grad()
    def read(x: torch.Tensor) -> dict[str, torch.Tensor]:
        seen.update({name: [] for name in leaky}, output=[])
        # It keeps membranes from call to call.
        for module in leaky.values():
            module.reset_mem()
        for one in x:
            seen["output"].append(network(one)[0])
        return {name: torch.stack(steps) for name, steps in seen.items()}

    return read
