"""A CUDA graph makes the same updates as the calls that it stands for."""

from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sdqn_lab import config
from sdqn_lab.agents.base import EnvSpec
from sdqn_lab.agents.dqn import DQN
from sdqn_lab.agents.replay import Batch
from sdqn_lab.assembly import build
from sdqn_lab.engines.cuda_graph import WARM_UP_CALLS, graph_obstacle


def needs_gpu(test: Callable[..., None]) -> Callable[..., None]:
    skipped = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
    marked: Callable[..., None] = pytest.mark.gpu(skipped(test))
    return marked


SHAPES = {"pong": (4, 84, 84), "minatar_breakout": (4, 10, 10)}
ACTIONS, BATCH = 6, 32
UPDATES = WARM_UP_CALLS + 4


def agent(*overrides: str, env: str = "minatar_breakout", device: str = "cuda") -> DQN:
    base = ["time_window=4", "tracker=none", f"device={device}", "algo.replay_capacity_steps=1000"]
    cfg = config.compose([f"env={env}", *base, "algo.replay_start_steps=100", *overrides])
    made = build.build_agent(cfg, EnvSpec(SHAPES[env], ACTIONS))
    assert isinstance(made, DQN)
    return made


def batches(env: str, count: int) -> list[Batch]:
    rng, high = np.random.default_rng(0), 256 if env == "pong" else 2

    def frames() -> Tensor:
        return torch.from_numpy(rng.integers(high, size=(BATCH, *SHAPES[env]), dtype=np.uint8))

    def one() -> Batch:
        returns = torch.from_numpy(rng.standard_normal(BATCH).astype(np.float32))
        actions = torch.from_numpy(rng.integers(ACTIONS, size=BATCH))
        return Batch(frames(), actions, returns, torch.full((BATCH,), 0.9), frames())

    return [one() for _ in range(count)]


def numbers(values: Mapping[str, Tensor | float]) -> dict[str, float]:
    return {key: float(value) for key, value in values.items()}


CELLS = {
    "spikes": ("minatar_breakout", ["experiment=pl_sdqn"]),
    "no norm": ("minatar_breakout", ["experiment=sdqn"]),
    "batch norm": ("minatar_breakout", ["norm=batchnorm"]),
    "relu": ("minatar_breakout", ["experiment=dqn"]),
    "double": ("minatar_breakout", ["algo.double=true", "algo.loss=huber"]),
    "clipped": ("minatar_breakout", ["algo.max_grad_norm=0.01", "algo.n_step=3"]),
    "soft target": ("minatar_breakout", ["algo.target_ema=0.1"]),
    "bf16": ("minatar_breakout", ["precision=bf16"]),
    "atari": ("pong", ["experiment=pl_sdqn"]),
}


@needs_gpu
@pytest.mark.parametrize("name", CELLS)
def test_a_graph_learns_what_single_calls_learn(name: str) -> None:
    env, overrides = CELLS[name]
    graph, calls = agent(*overrides, env=env), agent(*overrides, "backend=fused", env=env)
    assert graph.general_path is None
    assert calls.general_path == "backend=fused"
    tolerance = 2e-2 if name == "bf16" else 2e-4
    for batch in batches(env, UPDATES):
        one, other = graph.update(batch), calls.update(batch)
        assert numbers(one) == pytest.approx(numbers(other), rel=tolerance, abs=1e-6)
        norms = numbers(graph.gradient_norms()), numbers(calls.gradient_norms())
        assert norms[0] == pytest.approx(norms[1], rel=tolerance, abs=1e-6)
    assert graph.updates == calls.updates == UPDATES
    steps = {int(state["step"]) for state in graph.optimizer.state.values()}
    assert steps == {UPDATES}
    for name_, weight in calls.network.state_dict().items():
        torch.testing.assert_close(graph.network.state_dict()[name_], weight, rtol=1e-2, atol=2e-5)


@needs_gpu
def test_a_loaded_state_goes_on_in_a_graph() -> None:
    first, second = agent(), agent("seed=1")
    given = batches("minatar_breakout", 2 * UPDATES)
    for batch in given[:UPDATES]:
        first.update(batch)
        second.update(batch)
    state = {key: value for key, value in first.state_dict().items()}
    second.load_state_dict(torch_copy(state))
    for batch in given[UPDATES:]:
        first.update(batch)
        second.update(batch)
    for name, weight in first.network.state_dict().items():
        torch.testing.assert_close(second.network.state_dict()[name], weight, rtol=1e-2, atol=2e-5)


def torch_copy(state: object) -> dict[str, object]:
    """A copy whose tensors lie on the CPU, as a checkpoint's do."""

    def copied(part: object) -> object:
        if isinstance(part, Tensor):
            return part.detach().cpu().clone()
        if isinstance(part, dict):
            return {key: copied(value) for key, value in part.items()}
        return [copied(value) for value in part] if isinstance(part, list) else part

    whole = copied(state)
    assert isinstance(whole, dict)
    return whole


@needs_gpu
def test_decisions_follow_the_weights_and_hooks_are_heard() -> None:
    one = agent()
    policy = one.policy(one.network, ACTIONS)
    observations = batches("minatar_breakout", 1)[0].observations[:8].numpy()
    for batch in batches("minatar_breakout", UPDATES):
        one.update(batch)
        seen = policy.outputs(observations)
        policy.outputs(1 - observations)  # another decision leaves the first alone
        with torch.no_grad():
            wanted = one.network.eval()(torch.from_numpy(observations).cuda())
        torch.testing.assert_close(seen, wanted, rtol=1e-4, atol=1e-5)
    assert policy.outputs(observations[:3]).shape == (3, ACTIONS)
    called: list[nn.Module] = []
    handle = one.network.register_forward_hook(lambda module, *_: called.append(module))
    policy.outputs(observations)
    one.update(batches("minatar_breakout", 1)[0])
    assert called == [one.network] * 2
    handle.remove()
    policy.outputs(observations)
    assert len(called) == 2


def test_a_network_on_the_cpu_has_no_graph() -> None:
    assert graph_obstacle(agent(device="cpu").network) == "another device than a GPU"


def test_what_may_do_something_else_at_each_call_has_no_graph(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.nn.Parameter, "is_cuda", True)
    assert graph_obstacle(agent(device="cpu").network) is None
    assert graph_obstacle(nn.Linear(2, 2)) == "a network of another class"
    drawing = agent("encoder=poisson", device="cpu").network
    assert graph_obstacle(drawing) == "an encoder other than direct"
    plain = agent("backend=reference", device="cpu").network
    assert graph_obstacle(plain) == "backend=reference"

    class Counting(nn.ReLU):
        pass

    mine = agent(device="cpu").network
    mine.torso.hidden.norm = Counting()
    assert graph_obstacle(mine) == "Counting, which may do something else at each call"
