"""Which networks compiled code takes, what is said of the others, and to whom."""

import gc
import weakref
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import nn

from sdqn_lab import config
from sdqn_lab.agents.base import EnvSpec
from sdqn_lab.agents.dqn import DQN
from sdqn_lab.assembly import build
from sdqn_lab.config.composition import resolved
from sdqn_lab.engines.network import compiled, obstacle
from sdqn_lab.engines.optimizer import optimizer_obstacle
from sdqn_lab.networks.blocks import Block
from sdqn_lab.networks.mlp import MLP
from sdqn_lab.networks.nature import Nature
from sdqn_lab.networks.network import SpikingNetwork
from sdqn_lab.runs.directory import RunDirectory
from sdqn_lab.spiking.encoder import Delta, Latency, Poisson
from sdqn_lab.spiking.neuron import ALIF, CODES, IF, LIF, PLIF, ReLU
from sdqn_lab.spiking.norm import BatchNorm, NoNorm, PopNorm
from sdqn_lab.spiking.readout import (
    DiscountedSpikes,
    FirstSpike,
    LastMembrane,
    MaxMembrane,
    MeanMembrane,
)
from sdqn_lab.spiking.surrogate import Atan
from sdqn_lab.training.cell import COMPILED, run_cell
from tests.commands import Answer, refused
from tests.engines.helpers import ACTIONS, IMAGE, Minatar, Mlp
from tests.refusals import composer, refuses


class Own(LIF):
    """Somebody's neuron, whose charge the kernels do not know."""

    def charge(self, x: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return v + x.tanh()


class OwnSurrogate(Atan):
    pass


class OwnNorm(PopNorm):
    pass


class OwnBlock(Block):
    pass


class OwnTorso(MLP):
    def forward(self, x_seq: torch.Tensor, time_window: int) -> torch.Tensor:
        return 2 * super().forward(x_seq, time_window)


class OwnNetwork(SpikingNetwork):
    pass


def of_another_class(kind: type[nn.Module], path: str = "") -> SpikingNetwork:
    network = Mlp()
    network.get_submodule(path).__class__ = kind
    return network


def with_changed(path: str, name: str, value: Any) -> SpikingNetwork:
    network = Minatar()
    setattr(network.get_submodule(path), name, value)
    return network


def with_stride() -> SpikingNetwork:
    network = Minatar()
    network.get_submodule("torso.conv1.linear").stride = (2, 2)  # type: ignore[assignment]
    return network


def with_mixed_neurons() -> SpikingNetwork:
    network = Minatar(LIF)
    network.get_submodule("torso.hidden").neuron = ReLU()
    return network


def with_mixed_types() -> SpikingNetwork:
    network = Minatar()
    network.get_submodule("torso.hidden").double()
    return network


TORSO = "a network other than minatar and mlp"
CONVOLUTIONS = "more than one convolution"
SQUARE = "convolutions that are not square, with stride 1"
ENCODER = "an encoder other than direct"
READOUT = "a readout other than one of mean spikes"
NORM = "a norm other than popnorm and none"
NEURON = "a neuron or surrogate without kernels"
WIDTH = "layers whose width is no multiple of 16 (convolution) or 32"
NOT_COVERED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "poisson": (lambda: Minatar(encoder=Poisson), ENCODER),
    "latency": (lambda: Minatar(encoder=Latency), ENCODER),
    "delta": (lambda: Minatar(encoder=lambda: Delta(frames=2)), ENCODER),
    "last_membrane": (lambda: Minatar(readout=LastMembrane), READOUT),
    "max_membrane": (lambda: Minatar(readout=MaxMembrane), READOUT),
    "mean_membrane": (lambda: Minatar(readout=MeanMembrane), READOUT),
    "discounted_spikes": (lambda: Minatar(readout=DiscountedSpikes), READOUT),
    "first_spike": (lambda: Minatar(readout=FirstSpike), READOUT),
    "batchnorm": (lambda: Minatar(norm=BatchNorm), NORM),
    "a norm of one's own": (lambda: Minatar(norm=OwnNorm), NORM),
    "plif": (lambda: Minatar(PLIF), NEURON),
    "alif": (lambda: Minatar(ALIF), NEURON),
    "a learned threshold": (lambda: Minatar(lambda: LIF(learn_threshold="layer")), NEURON),
    "a neuron of one's own": (lambda: Minatar(Own), NEURON),
    "a surrogate of one's own": (lambda: Minatar(lambda: LIF(surrogate=OwnSurrogate())), NEURON),
    "two convolutions": (lambda: Minatar(channels=(16, 16)), CONVOLUTIONS),
    "nature": (lambda: Mlp(torso=Nature, shape=(4, 36, 36)), CONVOLUTIONS),
    "a stride": (with_stride, SQUARE),
    "20 channels": (lambda: Minatar(channels=(20,)), WIDTH),
    "48 units": (lambda: Minatar(hidden=48), WIDTH),
    "20 units": (lambda: Mlp(hidden=20), WIDTH),
    "bf16": (lambda: with_changed("torso.hidden", "precision", "bf16"), "precision=bf16"),
    "fused": (lambda: with_changed("torso.conv1.neuron", "backend", "fused"), "backend=fused"),
    "reference": (
        *(lambda: with_changed("torso.conv1.neuron", "backend", "reference"),),
        "backend=reference",
    ),
    "half": (lambda: Minatar().half(), "another type than float32"),
    "two types": (with_mixed_types, "another type than float32"),
    "neurons with and without time": (with_mixed_neurons, "neurons with and without time"),
    "a block of one's own": (lambda: of_another_class(OwnBlock, "torso.hidden1"), TORSO),
    "a torso of one's own": (lambda: of_another_class(OwnTorso, "torso"), TORSO),
    "a network of one's own": (lambda: of_another_class(OwnNetwork), TORSO),
    "no such network": (lambda: nn.Linear(3, 3), TORSO),
}


@pytest.mark.parametrize("name", NOT_COVERED)
def test_what_is_not_covered_has_its_reason(name: str) -> None:
    make, reason = NOT_COVERED[name]
    network = make()
    said = obstacle(network)
    assert said is not None
    assert reason in said
    assert "\n" not in said
    assert compiled(network) is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here: make gpu-check")
@pytest.mark.gpu
def test_a_network_on_a_gpu_is_not_covered() -> None:
    assert obstacle(Minatar().cuda()) == "another device than the CPU"


@pytest.mark.parametrize("norm", [PopNorm, NoNorm])
@pytest.mark.parametrize(
    "neuron", [LIF, IF, ReLU, *(lambda one=one: LIF(surrogate=one()) for one in CODES)]
)
def test_networks_of_all_other_options_are_covered(neuron: Any, norm: Any) -> None:
    for network in (Minatar(neuron, norm), Mlp(neuron, norm, layers=3), Minatar(neuron).double()):
        assert obstacle(network) is None
        assert compiled(network) is not None
        assert compiled(network) is compiled(network)


HOOKS: dict[str, Callable[[nn.Module], Any]] = {
    "forward": lambda module: module.register_forward_hook(lambda *_: None),
    "before": lambda module: module.register_forward_pre_hook(lambda *_: None),
    "backward": lambda module: module.register_full_backward_hook(lambda *_: None),
    "before backward": lambda module: module.register_full_backward_pre_hook(lambda *_: None),
}
PLACES = ["", "encoder", "torso", "torso.conv1", "torso.conv1.linear", "torso.conv1.norm"]
PLACES += ["torso.hidden.neuron", "readout", "readout.linear"]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", HOOKS)
def test_a_hook_anywhere_asks_for_torch_while_it_is_there(kind: str, place: str) -> None:
    network = Minatar()
    engine = compiled(network)
    assert engine is not None and engine.attached
    handle = HOOKS[kind](network.get_submodule(place))
    assert not engine.attached
    assert obstacle(network) == "modules with hooks"
    assert compiled(network) is None
    handle.remove()
    assert engine.attached
    assert compiled(network) is engine


def test_a_forward_put_in_place_of_a_module_s_own_asks_for_torch() -> None:
    network = Minatar()
    neuron = network.get_submodule("torso.conv1.neuron")
    neuron.forward = neuron.forward  # type: ignore[method-assign]
    assert obstacle(network) == "modules with hooks"


@pytest.mark.slow  # compiles two forms of a network
def test_a_part_put_in_place_of_another_is_compiled_anew_or_not_at_all() -> None:
    network = Minatar()
    engine = compiled(network)
    assert engine is not None
    block = network.get_submodule("torso.conv1")
    block.norm = NoNorm(block.norm.normalized_shape)  # type: ignore[arg-type]
    assert not engine.attached
    anew = compiled(network)
    assert anew is not None
    observations = torch.randint(2, (5, *IMAGE), dtype=torch.uint8)
    with torch.no_grad():
        wanted = network.eval()(observations)
    torch.testing.assert_close(torch.from_numpy(anew.values(observations.numpy())), wanted)
    block.neuron = PLIF()
    assert compiled(network) is None


def test_compiled_forms_end_with_their_networks() -> None:
    network = Minatar()
    engine = weakref.ref(compiled(network))  # type: ignore[arg-type]
    assert engine() is not None
    del network
    gc.collect()
    assert engine() is None


# What a user is told

CELL = ["env=minatar_breakout", "tracker=none", "threads=1", "time_window=2", "device=cpu"]
# One for each reason: `NOT_COVERED` has them all.
REASONS = {
    "norm=batchnorm": NORM,
    "encoder=poisson": ENCODER,
    "readout=first_spike": READOUT,
    "neuron.learn_threshold=layer": NEURON,
    "precision=bf16": "precision=bf16",
    "network.channels=[16,16]": CONVOLUTIONS,
    "network.hidden=100": WIDTH,
}


@pytest.mark.parametrize("option", REASONS)
def test_an_agent_that_cannot_be_compiled_is_refused_where_that_was_asked_for(option: str) -> None:
    env = EnvSpec((4, 10, 10), ACTIONS)
    auto = build.build_agent(config.compose([*CELL, option]), env)
    assert auto.general_path is not None
    assert REASONS[option] in auto.general_path
    with refuses("backend", "compiled", "backend=auto", REASONS[option]):
        # A config that was not looked at before.
        words = [*CELL, option, "backend=compiled"]
        build.build_agent(resolved(composer().compose_raw(words)), env)


@pytest.mark.parametrize("option", ["norm=batchnorm", "network.channels=[16,16]"])
def test_a_cell_that_cannot_be_compiled_is_refused_before_it_begins(
    option: str, single: Callable[..., Answer]
) -> None:
    answer = single(*CELL, option, "backend=compiled", "hydra.run.dir=here")
    refused(answer, f"error: backend=compiled: | {REASONS[option]} | ; write backend=auto")


@pytest.mark.parametrize(
    "experiment",
    [
        *["pl_sdqn", "sdqn", "dqn", "dqn_popnorm", "pl_pqn", "pqn", "pl_qr_dqn", "qr_dqn"],
        *["pl_ppo", "ppo", "pl_a2c", "a2c", "pl_reinforce", "reinforce"],
    ],
)
def test_the_experiments_on_minatar_are_compiled(experiment: str) -> None:
    cfg = config.compose([*CELL, f"experiment={experiment}", "backend=compiled"])
    agent = build.build_agent(cfg, EnvSpec((4, 10, 10), ACTIONS))
    assert agent.general_path is None


@pytest.mark.parametrize(
    ("option", "said"),
    [("backend=auto", COMPILED), ("norm=batchnorm", f"general path: {NORM}")],
)
def test_a_cell_says_which_path_it_takes_and_why(option: str, said: str, tmp_path: Path) -> None:
    words = [*CELL, "budget.steps=60", "budget.log_every_steps=60", "algo.iteration_steps=60"]
    words += ["algo.replay_start_steps=40", "algo.batch_size=4", "protocol.eval_episodes=1"]
    words += ["protocol.episode_cap_frames=20", option]
    output = StringIO()
    cfg = config.compose(words)
    assert run_cell(cfg, RunDirectory(tmp_path / "cell"), Console(file=output, width=200)) == 0
    lines = [line.strip() for line in output.getvalue().splitlines()]
    assert f"cell: {said}" in lines


def test_an_optimizer_that_is_not_covered_is_left_to_torch() -> None:
    agent = DQN(Minatar(), EnvSpec(IMAGE, ACTIONS), seed=0, num_envs=1)
    agent.optimizer = torch.optim.SGD(agent.network.parameters(), lr=0.1)
    assert agent.general_path == "an optimizer other than Adam, AdamW, RAdam, RMSprop"
    for options in ({"momentum": 0.9}, {"centered": True}):
        optimizer = torch.optim.RMSprop(agent.network.parameters(), lr=0.1, **options)
        assert optimizer_obstacle(optimizer, agent.network) == next(iter(options))
    optimizer = torch.optim.Adam(agent.network.parameters(), amsgrad=True)
    assert optimizer_obstacle(optimizer, agent.network) == "amsgrad"


def test_parameters_that_are_not_to_learn_are_left_to_torch() -> None:
    agent = DQN(Minatar(), EnvSpec(IMAGE, ACTIONS), seed=0, num_envs=1)
    agent.optimizer = torch.optim.Adam(agent.network.get_submodule("readout").parameters())
    assert agent.general_path == "parameters that are frozen, or not the optimizer's"
    agent = DQN(Minatar(), EnvSpec(IMAGE, ACTIONS), seed=0, num_envs=1)
    agent.network.get_submodule("torso").requires_grad_(False)
    assert agent.general_path == "parameters that are frozen, or not the optimizer's"
