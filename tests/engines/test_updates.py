"""Updates of agents by compiled code leave what updates by torch's plain steps leave."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sdqn_lab.agents.base import EnvSpec
from sdqn_lab.agents.dqn import DQN
from sdqn_lab.agents.pqn import PQN
from sdqn_lab.agents.q_agent import QAgent
from sdqn_lab.agents.qr_dqn import QRDQN
from sdqn_lab.agents.replay import Batch
from sdqn_lab.engines.network import compiled
from sdqn_lab.networks.network import SpikingNetwork
from sdqn_lab.spiking.neuron import IF, LIF
from tests.engines.helpers import ACTIONS, BORDER, IMAGE, Minatar, margin, plain, seen

BATCH, UPDATES = 6, 10
ENV = EnvSpec(IMAGE, ACTIONS, stack=1)
DTYPES = {"float32": torch.float32, "float64": torch.float64}
ARMS: dict[str, dict[str, Any]] = {
    "dqn, adam, hard": {"optimizer": "adam", "target_update_every_updates": 3},
    "double, adamw, soft": {
        **{"double": True, "optimizer": "adamw", "weight_decay": 0.01, "target_ema": 0.01},
        **{"loss": "huber", "n_step": 3},
    },
    "double, adam, clipped": {
        **{"double": True, "max_grad_norm": 0.5, "weight_decay": 0.01, "n_step": 3},
        **{"target_update_every_updates": 4},
    },
    "dqn, adamw, clipped, huber": {
        **{"loss": "huber", "optimizer": "adamw", "max_grad_norm": 0.5, "target_ema": 0.1},
    },
    "quantiles": {"quantiles": 5, "target_update_every_updates": 3},
    "quantiles, double, clipped": {
        **{"quantiles": 1, "double": True, "kappa": 0.5, "max_grad_norm": 0.5, "target_ema": 0.1},
    },
}


def lively() -> LIF:
    return LIF(tau=1.5, v_threshold=0.4)


def dqn(network: SpikingNetwork, **more: Any) -> DQN:
    sizes = {"replay_capacity_steps": 100, "num_envs": 2, "learning_rate": 1e-3}
    cls = QRDQN if "quantiles" in more else DQN
    return cls(network, ENV, seed=0, **(sizes | more))


def pqn(network: SpikingNetwork, **more: Any) -> PQN:
    return PQN(network, ENV, seed=0, **({"num_envs": 2, "learning_rate": 1e-3} | more))


def batch(number: int, size: int = BATCH) -> Batch:
    rng = np.random.default_rng(number)
    frames = [torch.from_numpy(seen(IMAGE, size, seed=2 * number + i)) for i in range(2)]
    numbers = torch.from_numpy(2 * rng.standard_normal(size).astype(np.float32))
    actions = torch.from_numpy(rng.integers(ACTIONS, size=size))
    discounts = torch.from_numpy(0.9 * rng.integers(2, size=size).astype(np.float32))
    return Batch(frames[0], actions, numbers, discounts, frames[1])


def two_best(agent: QAgent, network: SpikingNetwork, observations: Tensor) -> float:
    """By how much the best action is better than the second; values of a silent layer are all 0."""
    with torch.no_grad():
        values = agent.policy(network, ACTIONS).values(plain(network)(observations))
    best = values.topk(2, dim=1).values
    difference = best[:, 0] - best[:, 1]
    return float(difference[difference != 0].min())


def on_border(agent: QAgent, one: Batch) -> bool:
    """Whether rounding may decide a spike or an action of an update."""
    networks = [agent.network, agent.target_network] if isinstance(agent, DQN) else [agent.network]
    for network in networks:
        assert isinstance(network, SpikingNetwork)
        nearest = margin(network, one.observations.numpy(), one.next_observations.numpy())
        if min(nearest, two_best(agent, network, one.next_observations)) < BORDER:
            return True
    return False


def clear_batch(number: int, *agents: QAgent) -> Batch:
    """The first from which on rounding decides nothing."""
    for draw in range(100 * number, 100 * number + 100):
        one = batch(draw)
        if not any(on_border(agent, one) for agent in agents):
            return one
    raise AssertionError("every batch comes near a border")


def assert_alike(fast: QAgent, slow: QAgent, dtype: torch.dtype) -> None:
    """Parameters, and those of the target."""
    # Adam divides by the size of the gradient: what is rounding alone moves too.
    tolerance = {"rtol": 1e-9, "atol": 1e-10} if dtype == torch.float64 else {}
    tolerance = tolerance or {"rtol": 1e-4, "atol": 1e-5}
    states = [fast.network.state_dict(), slow.network.state_dict()]
    torch.testing.assert_close(*states, **tolerance)
    if isinstance(fast, DQN) and isinstance(slow, DQN):
        states = [fast.target_network.state_dict(), slow.target_network.state_dict()]
        torch.testing.assert_close(*states, **tolerance)


def assert_same_numbers(ours: Any, theirs: Any, dtype: torch.dtype) -> None:
    tolerance = 1e-9 if dtype == torch.float64 else 1e-4
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        assert float(ours[key]) == pytest.approx(float(value), rel=tolerance, abs=tolerance), key


@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize("arm", ARMS)
def test_updates_of_dqn_are_those_of_torch(arm: str, kind: str) -> None:
    dtype = DTYPES[kind]
    width = ACTIONS * ARMS[arm].get("quantiles", 1)
    network = Minatar(lively, time_window=4, num_actions=width).to(dtype)
    slow, fast = dqn(plain(network), **ARMS[arm]), dqn(network, **ARMS[arm])
    assert fast.general_path is None
    assert slow.general_path == "LIF with backend=reference"
    before = copy.deepcopy(network.state_dict())
    for number in range(UPDATES):
        one = clear_batch(number, fast, slow)
        assert_same_numbers(fast.update(one), slow.update(one), dtype)
        assert_same_numbers(fast.gradient_norms(), slow.gradient_norms(), dtype)
        assert_alike(fast, slow, dtype)
    assert fast.updates == slow.updates == UPDATES
    after = network.state_dict()
    assert all(not torch.equal(before[key], after[key]) for key in after)


@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize("limit", [None, 0.3])
def test_updates_of_pqn_are_those_of_torch(limit: float | None, kind: str) -> None:
    dtype = DTYPES[kind]
    network = Minatar(lambda: IF(v_threshold=0.8, reset="soft"), time_window=4).to(dtype)
    slow, fast = pqn(plain(network), max_grad_norm=limit), pqn(network, max_grad_norm=limit)
    assert fast.general_path is None
    assert slow.general_path == "IF with backend=reference"
    # RAdam has a rectification from the sixth step on.
    for number in range(15):
        one = clear_batch(number, fast, slow)
        for agent in (fast, slow):
            agent.optimizer.param_groups[0]["lr"] = 1e-3 * (1 - number / 20)
        given = one.observations, one.actions, one.returns
        assert_same_numbers(fast.update(*given), slow.update(*given), dtype)
        assert_same_numbers(fast.gradient_norms(), slow.gradient_norms(), dtype)
        assert_alike(fast, slow, dtype)


def add_hook(network: SpikingNetwork) -> None:
    network.get_submodule("torso.hidden").register_forward_hook(lambda *_: None)


CHANGES: dict[str, Callable[[Any], object]] = {
    "another type": lambda network: network.double(),
    "other memory": lambda network: network._apply(torch.clone),
    "a hook": add_hook,
}
MAKERS: dict[str, Callable[..., QAgent]] = {"dqn": dqn, "pqn": pqn}


def updated(agent: Any, number: int) -> None:
    one = batch(number)
    agent.update(one) if isinstance(agent, DQN) else agent.update(*one[:3])


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("change", CHANGES)
def test_training_goes_on_after_a_change_of_the_network(change: str, kind: str) -> None:
    network = Minatar(lively, time_window=4)
    # Torch's optimizers do not follow a change of type once they have a state.
    before = 0 if change == "another type" else 3
    network = network.to(torch.float32 if change == "another type" else torch.float64)
    fast, slow = MAKERS[kind](network), MAKERS[kind](plain(network))
    assert fast.general_path is None
    for number in range(6):
        for agent in (fast, slow):
            if number == before:
                CHANGES[change](agent.network)
            if number == before and isinstance(agent, DQN):
                CHANGES[change](agent.target_network)
            updated(agent, number)
    assert_alike(fast, slow, torch.float64)
    assert fast.general_path == ("modules with hooks" if change == "a hook" else None)


@pytest.mark.parametrize("change", [*CHANGES, "other parameters"])
def test_decisions_follow_a_change_of_the_network(change: str) -> None:
    network = Minatar(lively, time_window=4)
    agent, x = dqn(network), seen(IMAGE, BATCH)
    policy = agent.policy(agent.network, ACTIONS)
    before = policy.outputs(x)
    if change in CHANGES:
        CHANGES[change](network)
    else:
        state = {key: value.clone() for key, value in network.state_dict().items()}
        network.load_state_dict(state, assign=True)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.5)
    after = policy.outputs(x)
    assert not torch.equal(before.double(), after.double())
    wanted = plain(network)(torch.from_numpy(x)).detach()
    torch.testing.assert_close(after.double(), wanted.double(), rtol=1e-5, atol=1e-5)


def test_a_hook_that_is_set_later_is_called_by_decisions_and_updates() -> None:
    network = Minatar(lively, time_window=4)
    agent, x = dqn(network), seen(IMAGE, BATCH)
    policy, calls = agent.policy(agent.network, ACTIONS), []
    policy.outputs(x)
    agent.update(batch(0))
    neuron = network.get_submodule("torso.hidden.neuron")
    handle = neuron.register_forward_hook(lambda *_: calls.append(1))
    policy.outputs(x)
    assert len(calls) == 1
    agent.update(batch(1))
    assert len(calls) == 2
    handle.remove()
    policy.outputs(x)
    agent.update(batch(2))
    assert len(calls) == 2
    assert agent.general_path is None


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("way", ["engine to torch", "torch to engine", "engine to engine"])
def test_a_state_of_one_backend_goes_on_in_the_other(way: str, kind: str) -> None:
    giver, taker = way.split(" to ")
    network = Minatar(lively, time_window=4).double()
    forms = {"engine": lambda: copy.deepcopy(network), "torch": lambda: plain(network)}
    first, second, whole = (MAKERS[kind](forms[form]()) for form in (giver, taker, giver))
    updated(second, 99)  # what it learned before is forgotten
    for number in range(6):
        updated(whole, number)
        if number < 3:
            updated(first, number)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for number in range(3, 6):
        updated(second, number)
    assert (second.general_path is None) == (taker == "engine")
    assert second.updates == whole.updates
    if giver == taker:
        states = second.network.state_dict(), whole.network.state_dict()
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert_alike(second, whole, torch.float64)


def test_a_state_shared_in_memory_does_not_tie_two_agents() -> None:
    network = Minatar(lively, time_window=4)
    first, second = dqn(copy.deepcopy(network)), dqn(copy.deepcopy(network))
    for number in range(3):
        updated(first, number)
    second.load_state_dict(first.state_dict())
    kept = copy.deepcopy(second.state_dict())
    for number in range(3, 6):
        updated(first, number)
    after = second.state_dict()
    torch.testing.assert_close(after["optimizer"], kept["optimizer"], rtol=0, atol=0)
    torch.testing.assert_close(after["network"], kept["network"], rtol=0, atol=0)


def test_a_copy_of_a_compiled_network_has_parameters_of_its_own() -> None:
    network, x = Minatar(lively, time_window=4), seen(IMAGE, BATCH)
    engine = compiled(network)
    assert engine is not None
    before = engine.values(x).copy()
    other = copy.deepcopy(network)
    own = compiled(other)
    assert own is not None and own is not engine
    assert np.array_equal(own.values(x), before)
    own.parameters *= 1.5
    assert not np.array_equal(own.values(x), before)
    assert np.array_equal(engine.values(x), before)
    assert compiled(network) is engine


def test_loading_into_a_compiled_network_changes_what_it_answers() -> None:
    network, other, x = Minatar(lively), Minatar(lively, seed=1), seen(IMAGE, BATCH)
    engine = compiled(network)
    assert engine is not None
    before = engine.values(x).copy()
    network.load_state_dict(other.state_dict())
    assert compiled(network) is engine and engine.attached
    wanted = plain(other).double()(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(engine.values(x), wanted, rtol=1e-5, atol=1e-6)
    assert not np.array_equal(engine.values(x), before)
