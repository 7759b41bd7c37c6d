"""Networks of several heads in compiled code, and the agents that learn with them."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sdqn_lab.agents.a2c import A2C
from sdqn_lab.agents.base import EnvSpec
from sdqn_lab.agents.policy_agent import PolicyAgent
from sdqn_lab.agents.ppo import PPO
from sdqn_lab.agents.reinforce import REINFORCE
from sdqn_lab.engines.network import ROOMS, compiled
from sdqn_lab.envs.base import ActionBox
from sdqn_lab.networks.network import SpikingNetwork
from sdqn_lab.spiking.neuron import LIF, ReLU
from sdqn_lab.spiking.readout import MeanSpikes
from tests.engines.helpers import ACTIONS, IMAGE, VECTOR, Minatar, Mlp, plain, seen

BATCH, UPDATES = 6, 10
BOX = ActionBox((-1.0,) * ACTIONS, (1.0,) * ACTIONS)


def lively() -> LIF:
    return LIF(tau=1.5, v_threshold=0.4)


def several(
    make: Callable[..., SpikingNetwork] = Minatar,
    neuron: Callable[[], Any] = lively,
    *,
    apart: bool = False,
    gaussian: bool = False,
    alone: bool = False,
) -> SpikingNetwork:
    """A network of a policy and, unless `alone`, of values, which read one torso or two."""
    one, other = make(neuron, seed=0), make(neuron, seed=1)
    value = MeanSpikes(in_features=one.torso.num_features, num_actions=1)
    with torch.no_grad():
        value.linear.weight.normal_(generator=torch.Generator().manual_seed(2))
    return SpikingNetwork(
        one.torso,
        one.encoder,
        {"policy": one.readout} | ({} if alone else {"value": value}),
        own_torsos={"value": other.torso} if apart else {},
        gaussian=("policy", ACTIONS) if gaussian else None,
        time_window=4,
        observation_scale=2.0,
    )


FORMS: dict[str, dict[str, Any]] = {
    "shared": {},
    "apart": {"apart": True},
    "shared, gaussian": {"gaussian": True},
    "apart, gaussian": {"apart": True, "gaussian": True, "make": Mlp},
    "apart, relu": {"apart": True, "neuron": ReLU},
    "alone, gaussian": {"alone": True, "gaussian": True, "make": Mlp},
}
each_form = pytest.mark.parametrize("form", FORMS)


def shape_of(form: str) -> tuple[int, ...]:
    return VECTOR if FORMS[form].get("make") is Mlp else IMAGE


def gradients(network: SpikingNetwork) -> dict[str, Tensor]:
    """What the engine summed up, by the names of the parameters."""
    engine = compiled(network)
    assert engine is not None
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    found = engine.views(torch.from_numpy(engine.gradient.copy()))
    return {names[id(own)]: grad for own, grad in zip(engine.own, found, strict=True)}


@each_form
def test_outputs_and_gradients_are_those_of_autograd(form: str) -> None:
    network, x = several(**FORMS[form]).double(), seen(shape_of(form), BATCH)
    with torch.no_grad():
        if network.log_std is not None:
            network.log_std += torch.tensor([0.3, -0.2, 0.1])
    reference, engine = plain(network), compiled(network)
    assert engine is not None
    outputs = reference(torch.from_numpy(x))
    outputs = outputs if isinstance(outputs, dict) else {"policy": outputs}
    given = torch.from_numpy(engine.forward(x)).requires_grad_()
    found = engine.by_head(given)
    assert found.keys() == outputs.keys()
    random = torch.Generator().manual_seed(3)
    loss, wanted = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for head, theirs in outputs.items():
        torch.testing.assert_close(found[head], theirs, rtol=1e-10, atol=1e-12)
        weights = torch.randn(theirs.shape, generator=random, dtype=torch.float64)
        loss, wanted = loss + (found[head] * weights).sum(), wanted + (theirs * weights).sum()
    wanted.backward()  # type: ignore[no-untyped-call]
    loss.backward()  # type: ignore[no-untyped-call]
    assert given.grad is not None
    engine.backward(x, given.grad.numpy())
    ours = gradients(network)
    for name, parameter in reference.named_parameters():
        torch.testing.assert_close(ours[name], parameter.grad, rtol=1e-10, atol=1e-12, msg=name)
    assert np.array_equal(engine.values(x), given.detach().numpy())


@each_form
def test_layers_have_the_names_and_sizes_that_the_network_gives_them(form: str) -> None:
    network = several(**FORMS[form])
    engine = compiled(network)
    assert engine is not None
    sizes = dict(zip(engine.layers, np.diff(engine.bounds).tolist(), strict=True))
    assert sizes == {n: sum(p.numel() for p in m.parameters()) for n, m in network.layers()}


def ppo(network: SpikingNetwork, env: EnvSpec) -> PolicyAgent:
    return PPO(network, env, seed=0, num_envs=2, rollout_steps=4, learning_rate=1e-3)


def a2c(network: SpikingNetwork, env: EnvSpec) -> PolicyAgent:
    return A2C(network, env, seed=0, num_envs=2, entropy_coef=0.01, learning_rate=1e-3)


def reinforce(network: SpikingNetwork, env: EnvSpec) -> PolicyAgent:
    return REINFORCE(network, env, seed=0, num_envs=2, learning_rate=1e-3)


CASES: dict[str, tuple[Callable[[SpikingNetwork, EnvSpec], PolicyAgent], str]] = {
    "ppo": (ppo, "apart"),
    "ppo, one torso, gaussian": (ppo, "shared, gaussian"),
    "a2c": (a2c, "shared"),
    "a2c, relu": (a2c, "apart, relu"),
    "reinforce, gaussian": (reinforce, "alone, gaussian"),
}
each_case = pytest.mark.parametrize("case", CASES)


def made(case: str, form: Callable[[SpikingNetwork], SpikingNetwork]) -> PolicyAgent:
    make, name = CASES[case]
    box = BOX if FORMS[name].get("gaussian") else None
    env = EnvSpec(shape_of(name), ACTIONS, action_box=box)
    return make(form(several(**FORMS[name]).double()), env)


def batch(case: str, number: int) -> dict[str, Tensor]:
    rng, form = np.random.default_rng(number), CASES[case][1]
    drawn = {
        name: torch.from_numpy(rng.standard_normal(BATCH))
        for name in ("value", "log_prob", "advantage", "return")
    }
    drawn["log_prob"] = drawn["log_prob"] / 10 - 1.2
    actions = rng.integers(ACTIONS, size=BATCH)
    if FORMS[form].get("gaussian"):
        actions = rng.standard_normal((BATCH, ACTIONS))
    observations = torch.from_numpy(seen(shape_of(form), BATCH, seed=number))
    return {**drawn, "observations": observations, "actions": torch.from_numpy(actions)}


@each_case
def test_updates_are_those_of_torch(case: str) -> None:
    fast, slow = made(case, lambda network: network), made(case, plain)
    assert fast.general_path is None
    assert str(slow.general_path).endswith("backend=reference")
    before = copy.deepcopy(fast.network.state_dict())
    for number in range(UPDATES):
        metrics = [agent.update(batch(case, number)) for agent in (fast, slow)]
        norms = [agent.gradient_norms() for agent in (fast, slow)]
        for ours, theirs in (metrics, norms):
            assert ours.keys() == theirs.keys()
            for key, value in theirs.items():
                assert float(ours[key]) == pytest.approx(float(value), rel=1e-9, abs=1e-9), key
        states = [agent.network.state_dict() for agent in (fast, slow)]
        torch.testing.assert_close(*states, rtol=1e-9, atol=1e-10)
    after = fast.network.state_dict()
    assert all(not torch.equal(before[key], after[key]) for key in after)


@each_case
@pytest.mark.parametrize("way", ["engine to torch", "torch to engine", "engine to engine"])
def test_a_state_of_one_backend_goes_on_in_the_other(way: str, case: str) -> None:
    forms = {"engine": copy.deepcopy, "torch": plain}
    giver, taker = (forms[form] for form in way.split(" to "))
    first, second, whole = made(case, giver), made(case, taker), made(case, giver)
    second.update(batch(case, 99))  # what it learned before is forgotten
    for number in range(6):
        whole.update(batch(case, number))
        if number < 3:
            first.update(batch(case, number))
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for number in range(3, 6):
        second.update(batch(case, number))
    states = second.network.state_dict(), whole.network.state_dict()
    if giver is taker:
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    torch.testing.assert_close(*states, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("case", ["ppo", "ppo, one torso, gaussian"])
def test_an_action_is_as_probable_when_it_is_learned_from_as_when_it_was_drawn(case: str) -> None:
    agent = made(case, lambda network: network.float())
    form = CASES[case][1]
    observations = seen(shape_of(form), BATCH)
    decision = agent.act(observations, 0)
    engine = compiled(agent.network)
    assert engine is not None
    outputs = engine.by_head(torch.from_numpy(engine.forward(observations)))
    log_prob, _ = agent.judged(outputs["policy"], torch.from_numpy(decision.actions))
    assert np.array_equal(decision.extras["log_prob"], log_prob.numpy())
    assert np.array_equal(decision.extras["value"], outputs["value"][:, 0].numpy())
    policy = agent.policy(agent.network, agent.env.actions)
    assert torch.equal(policy.outputs(observations), outputs["policy"])


def test_batches_of_many_sizes_take_the_room_of_a_few() -> None:
    agent, rooms = made("reinforce, gaussian", lambda network: network), set[int]()
    engine = compiled(agent.network)
    assert engine is not None
    for size in range(1, 100):
        engine.forward(np.zeros((size, *VECTOR), np.float32))
        rooms.add(len(engine._updates))
    assert max(rooms) == ROOMS


def test_what_was_not_finite_is_forgotten_when_a_state_is_loaded() -> None:
    agent = made("a2c", lambda network: network)
    agent.update(batch("a2c", 0))
    kept = copy.deepcopy(agent.state_dict())
    assert agent.engine is not None
    agent.engine.network.gradient[:] = np.inf
    agent.engine.step()
    agent.load_state_dict(kept)
    agent.update(batch("a2c", 1))
    assert all(torch.isfinite(tensor).all() for tensor in agent.network.state_dict().values())


def test_updates_that_torch_makes_are_not_overwritten_by_an_engine_that_made_none() -> None:
    agent = made("ppo", lambda network: network)
    assert agent.engine is not None
    for parameter in agent.network.parameters():
        parameter.grad = torch.ones_like(parameter)
    for _ in range(3):
        agent.optimizer.step()
        state = agent.state_dict()
    assert {float(moments["step"]) for moments in state["optimizer"]["state"].values()} == {3.0}
