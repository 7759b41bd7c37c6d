"""Every backend trains the same network."""

from typing import Any

import numpy as np
import pytest
import torch

from sdqn_lab import build, config
from sdqn_lab.agents.dqn import DQN
from sdqn_lab.agents.replay import Batch

BATCH, ACTIONS, SHAPE = 4, 3, (4, 10, 10)
SMALL = ["env=minatar_breakout", "network.channels=[8,8]", "network.hidden=32", "time_window=3"]
"""So few units that rounding will hardly lift one of them over its threshold."""
LIVELY = ["neuron.tau=1.25", "neuron.v_threshold=0.3"]


def agent(*overrides: str) -> DQN:
    words = [*SMALL, *LIVELY, "tracker=none", "device=cpu", *overrides]
    return build.build_agent(config.compose(words), SHAPE, ACTIONS)


def batch(rng: np.random.Generator) -> Batch:
    def frames() -> torch.Tensor:
        return torch.from_numpy(rng.integers(2, size=(BATCH, *SHAPE), dtype=np.uint8))

    numbers = torch.from_numpy(rng.standard_normal(BATCH).astype(np.float32))
    actions = torch.from_numpy(rng.integers(ACTIONS, size=BATCH))
    return Batch(frames(), actions, numbers, torch.full((BATCH,), 0.9), frames())


@pytest.mark.parametrize("norm", ["popnorm", "none", "batchnorm"])
def test_ten_updates_leave_the_same_weights(norm: str) -> None:
    trained: list[dict[str, Any]] = []
    for backend in ("auto", "reference"):
        rng, one = np.random.default_rng(0), agent(f"norm={norm}", f"backend={backend}")
        before = {k: v.clone() for k, v in one.network.state_dict().items()}
        losses = [float(one.update(batch(rng))["loss/td"]) for _ in range(10)]
        after = one.network.state_dict()
        assert all(not torch.equal(before[k], after[k]) for k in after)
        trained.append({"losses": losses, **after})
    fast, slow = trained
    np.testing.assert_allclose(fast.pop("losses"), slow.pop("losses"), rtol=1e-4)
    for name, value in slow.items():
        if norm == "batchnorm" and name.endswith(("linear.bias", "running_mean")):
            continue  # a gradient of rounding alone, which Adam magnifies; the mean follows it
        torch.testing.assert_close(fast[name], value, rtol=1e-3, atol=2e-5, msg=name)
