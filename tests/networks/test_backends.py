"""Every backend trains the same network."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from sdqn_lab import config
from sdqn_lab.agents.base import EnvSpec
from sdqn_lab.agents.dqn import DQN
from sdqn_lab.agents.replay import Batch
from sdqn_lab.assembly import build
from sdqn_lab.networks import blocks
from sdqn_lab.spiking.kernels import periodic, sparse

BATCH, ACTIONS, SHAPE = 4, 3, (4, 10, 10)
SMALL = ["env=minatar_breakout", "network.channels=[8,8]", "network.hidden=32", "time_window=3"]
"""So few units that rounding will hardly lift one of them over its threshold."""
LIVELY = ["neuron.tau=1.25", "neuron.v_threshold=0.3"]


DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
        ],
    ),
]


def agent(*overrides: str) -> DQN:
    cfg = config.compose([*SMALL, *LIVELY, "tracker=none", *overrides])
    return build.build_agent(cfg, EnvSpec(SHAPE, ACTIONS))


def batch(rng: np.random.Generator) -> Batch:
    def frames() -> torch.Tensor:
        return torch.from_numpy(rng.integers(2, size=(BATCH, *SHAPE), dtype=np.uint8))

    numbers = torch.from_numpy(rng.standard_normal(BATCH).astype(np.float32))
    actions = torch.from_numpy(rng.integers(ACTIONS, size=BATCH))
    return Batch(frames(), actions, numbers, torch.full((BATCH,), 0.9), frames())


@pytest.fixture
def maps_skip_zeros(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Even small maps may skip zeros; whether they did, map after map."""
    monkeypatch.setattr(sparse, "MIN_WORK", 0)
    monkeypatch.setattr(sparse, "MIN_ROWS", 0)
    taken: list[bool] = []

    def watched(run: Callable[..., torch.Tensor | None]) -> Callable[..., torch.Tensor | None]:
        def called(*given: Any) -> torch.Tensor | None:
            y = run(*given)
            taken.append(y is not None)
            return y

        return called

    monkeypatch.setattr(blocks, "sparse_linear", watched(sparse.sparse_linear))
    monkeypatch.setattr(blocks, "periodic_map", watched(periodic.periodic_map))
    return taken


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("norm", ["popnorm", "none", "batchnorm"])
def test_ten_updates_leave_the_same_weights(
    norm: str, device: str, maps_skip_zeros: list[bool]
) -> None:
    trained: list[dict[str, Any]] = []
    for backend in ("auto", "reference"):
        one = agent(f"norm={norm}", f"backend={backend}", f"device={device}")
        rng = np.random.default_rng(0)
        assert one.device.type == device
        before = {k: v.clone() for k, v in one.network.state_dict().items()}
        losses = [float(one.update(batch(rng))["loss/td"])]
        first = {f"grad {k}": p.grad for k, p in one.network.named_parameters()}
        first = {k: grad.clone() for k, grad in first.items() if grad is not None}
        losses += [float(one.update(batch(rng))["loss/td"]) for _ in range(9)]
        after = one.network.state_dict()
        assert all(not torch.equal(before[k], after[k]) for k in after)
        trained.append({"losses": losses, **first, **after})
    assert maps_skip_zeros.count(True) > len(maps_skip_zeros) / 2 or device != "cpu"
    fast, slow = trained
    np.testing.assert_allclose(fast.pop("losses"), slow.pop("losses"), rtol=1e-4)
    for name, value in slow.items():
        if norm == "batchnorm" and name.endswith(("linear.bias", "running_mean")):
            continue  # a gradient of rounding alone, which Adam magnifies; the mean follows it
        torch.testing.assert_close(fast[name], value, rtol=1e-3, atol=2e-5, msg=name)


def test_bf16_rounds_maps_and_nothing_else() -> None:
    one, rng = agent("precision=bf16"), np.random.default_rng(0)
    types: dict[str, set[torch.dtype]] = {}
    for name, module in one.network.named_modules():
        kind = types.setdefault(name.rpartition(".")[2], set())
        module.register_forward_hook(lambda _, inputs, out, kind=kind: kind.add(out.dtype))
    exact = agent().network(batch(rng).observations)
    rng = np.random.default_rng(0)
    rounded = one.network(batch(rng).observations)
    assert types["linear"] == {torch.bfloat16, torch.float32}  # the readout's is exact
    assert types["neuron"] == {torch.float32}
    assert not torch.equal(exact, rounded)
    one.update(batch(rng))
    assert {p.grad.dtype for p in one.network.parameters() if p.grad is not None} == {torch.float32}
