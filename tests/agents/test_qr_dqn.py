"""QR-DQN: what it adds to DQN, from the head to what a person sees."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import sdqn_lab
from sdqn_lab import config
from sdqn_lab.agents.base import EnvSpec
from sdqn_lab.agents.losses import of_actions, quantile_huber, quantile_targets
from sdqn_lab.agents.qr_dqn import QRDQN
from sdqn_lab.agents.replay import Batch
from sdqn_lab.assembly import build
from sdqn_lab.checks.refused import Refused
from tests.cells import numbers, run
from tests.watching.runs import episodes

FEATURES, ACTIONS, QUANTILES = 5, 3, 4
ENV = EnvSpec((FEATURES,), ACTIONS, dtype=torch.float32)
SMALL = ["env=minatar_breakout", "budget=smoke", "tracker=none", "device=cpu", "threads=1"]
SMALL += ["network.channels=[16]", "network.hidden=32", "time_window=2", "algo.quantiles=7"]


class Linear(nn.Module):
    """Outputs that are a linear map of the observation, by action and quantile."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(ACTIONS * QUANTILES, FEATURES, generator=generator))

    def forward(self, x, *, time_window=None, generator=None):
        return x @ self.weight.T


def agent_of(**changes):
    settings = {"quantiles": QUANTILES, "replay_capacity_steps": 100, "learning_rate": 0.01}
    return QRDQN(Linear(), ENV, seed=0, **(settings | changes))


def batch_of(seed, size=16):
    generator = torch.Generator().manual_seed(seed)
    seen = torch.randn(2, size, FEATURES, generator=generator)
    returns = torch.randn(size, generator=generator)
    discounts = 0.9 * torch.randint(2, (size,), generator=generator)
    actions = torch.randint(ACTIONS, (size,), generator=generator)
    return Batch(seen[0], actions, returns, discounts, seen[1])


@pytest.mark.parametrize("kappa", [1.0, 0.0])
@pytest.mark.parametrize("double", [False, True])
def test_an_update_is_the_gradient_step_written_out(double, kappa):
    agent = agent_of(double=double, kappa=kappa, target_update_every_updates=100)
    agent.update(batch_of(0))
    online, target, batch = copy.deepcopy(agent.network), agent.target_network, batch_of(1)
    optimizer = torch.optim.Adam(online.parameters(), lr=0.01, eps=3.125e-4)
    optimizer.load_state_dict(copy.deepcopy(agent.optimizer.state_dict()))

    def quantiles(network, observations):
        return network(observations).view(16, ACTIONS, QUANTILES)

    targets = quantile_targets(
        batch.returns,
        batch.discounts,
        next_online=quantiles(online, batch.next_observations) if double else None,
        next_target=quantiles(target, batch.next_observations),
    )
    current = of_actions(quantiles(online, batch.observations), batch.actions)
    tau = torch.tensor([0.125, 0.375, 0.625, 0.875]).expand(16, -1)
    loss = quantile_huber(current, targets, tau, kappa).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    metrics = agent.update(batch)
    torch.testing.assert_close(agent.network.weight, online.weight)
    assert metrics["loss/td"].item() == pytest.approx(loss.item())
    assert metrics["q/mean"].item() == pytest.approx(current.mean().item())
    assert not any(value.requires_grad for value in metrics.values())


def test_it_learns_the_quantiles_of_a_random_return():
    agent = agent_of(quantiles=QUANTILES, kappa=0.0, learning_rate=0.02)
    seen = torch.ones(64, FEATURES)
    nothing = torch.zeros(64)
    generator = torch.Generator().manual_seed(0)
    for _ in range(600):
        returns = 4 * torch.rand(64, generator=generator)  # quantile tau is 4 tau
        agent.update(Batch(seen, nothing.long(), returns, nothing, seen))
    learned = agent.policy(agent.network, ACTIONS).quantiles(agent.network(seen[:1]))[0, 0]
    torch.testing.assert_close(learned, torch.tensor([0.5, 1.5, 2.5, 3.5]), atol=0.2, rtol=0)


def test_it_acts_by_the_mean_of_the_quantiles():
    policy = QRDQN.policy(Linear(), 2)
    outputs = torch.tensor([[9.0, -9.0, 1.0, 1.0], [3.0, 3.0, 5.0, 0.0], [1.0, 2.0, 2.0, 1.0]])
    assert policy.values(outputs).tolist() == [[0.0, 1.0], [3.0, 2.5], [1.5, 1.5]]
    assert policy.quantiles(outputs)[0].tolist() == [[9.0, -9.0], [1.0, 1.0]]
    assert policy.choose(outputs, np.random.default_rng(0)).tolist() == [1, 0, 0]


@pytest.mark.parametrize(
    ("experiment", "quantiles"), [("qr_dqn", 50), ("pl_qr_dqn", 50), ("pl_qr_dqn", 3)]
)
def test_the_readout_has_no_bias_and_as_many_rows_as_actions_times_quantiles(experiment, quantiles):
    words = ["env=minatar_breakout", f"experiment={experiment}", f"algo.quantiles={quantiles}"]
    network = build.build_network(config.compose(words), (4, 10, 10), 6)
    assert network.readout.linear.weight.shape == (6 * quantiles, 128)
    assert network.readout.linear.bias is None


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("algo.quantiles=0", "algo.quantiles=0: must be >= 1; write algo.quantiles=200"),
        ("algo.kappa=-1", "algo.kappa=-1: must be >= 0; write algo.kappa=1.0"),
        ("algo.loss=mse", "option qr_dqn of algo has no key loss"),
    ],
)
def test_what_is_out_of_range_is_refused_in_one_line(override, line):
    with pytest.raises(config.ConfigError) as refused:
        config.compose(["env=cartpole", "algo=qr_dqn", override])
    assert line in str(refused.value)
    assert len(refused.value.problems) == 1


def test_its_constructor_refuses_too():
    with pytest.raises(Refused) as refused:
        agent_of(kappa=-0.5)
    assert (refused.value.key, refused.value.value) == ("kappa", -0.5)


def test_a_trained_agent_gives_values_by_action_and_shows_quantiles(tmp_path):
    assert run([*SMALL, "experiment=pl_qr_dqn", "protocol.eval_episodes=2"], tmp_path) == 0
    assert any("loss/td" in record for record in numbers(tmp_path))
    player, _, played = episodes(tmp_path)
    decision = played.first[0]
    assert decision.quantiles.shape == (6, 7)
    np.testing.assert_allclose(decision.values, decision.quantiles.mean(1), rtol=1e-5)
    observations = np.zeros((3, 4, 10, 10), bool)
    assert player.q_values(observations).shape == (3, 6)
    assert sdqn_lab.load(tmp_path).act(observations).shape == (3,)
