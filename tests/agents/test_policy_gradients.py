"""REINFORCE, A2C and PPO on tiny networks: advantages by hand, updates taken apart, resume."""

import io
from math import exp, log
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from sdqn_lab.agents.a2c import A2C
from sdqn_lab.agents.base import EnvSpec, Row, RunFacts
from sdqn_lab.agents.losses import categorical
from sdqn_lab.agents.policy import Sampled
from sdqn_lab.agents.policy_agent import explained_variance
from sdqn_lab.agents.ppo import PPO
from sdqn_lab.agents.reinforce import REINFORCE
from sdqn_lab.envs.base import ActionBox
from sdqn_lab.training.checkpoint import pack, unpack

ACTIONS = 2
ENV = EnvSpec((3,), ACTIONS, dtype=torch.float32)
PENDULUM = EnvSpec((3,), 1, dtype=torch.float32, action_box=ActionBox((-2.0,), (2.0,)))
GOLDEN = sorted((Path(__file__).parents[1] / "golden").glob("ppo_*.npz"))
ALGORITHMS = {"reinforce": REINFORCE, "a2c": A2C, "ppo": PPO}
each_algorithm = pytest.mark.parametrize("name", ALGORITHMS)
each_critic = pytest.mark.parametrize("name", ["a2c", "ppo"])


class Shown(nn.Module):
    """An observation (N, 3) shows its value and both logits, up to learnable factors of 1."""

    def __init__(self, heads):
        super().__init__()
        self.of_value, self.of_logits = nn.Parameter(torch.ones(())), nn.Parameter(torch.ones(()))
        self.heads = heads

    def forward(self, observations, *, time_window=None, generator=None):
        logits = self.of_logits * observations[:, 1:]
        value = self.of_value * observations[:, :1]
        return {"policy": logits, "value": value} if self.heads == 2 else logits


class Noisy(nn.Module):
    """Two layers with batch normalization, and noise from the generator that it is given."""

    def __init__(self, seed, heads):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.first, self.norm = nn.Linear(3, 8), nn.BatchNorm1d(8)
            self.policy, self.value = nn.Linear(8, ACTIONS), nn.Linear(8, 1)
        self.heads, self.modes = heads, []

    def forward(self, observations, *, time_window=None, generator=None):
        self.modes.append(self.training)
        x = observations + 0.1 * torch.rand(observations.shape, generator=generator)
        x = torch.relu(self.norm(self.first(x)))
        logits = self.policy(x)
        return {"policy": logits, "value": self.value(x)} if self.heads == 2 else logits


def made(name, network=None, env=ENV, **changes):
    cls = ALGORITHMS[name]
    settings = {"gamma": 0.5, "learning_rate": 0.1, "max_grad_norm": None}
    if name != "reinforce":
        settings |= {"gae_lambda": 0.5, "entropy_coef": 0.0}
    if name == "ppo":
        settings |= {"epochs": 1, "minibatches": 1}
    network = network or Shown(1 if name == "reinforce" else 2)
    return cls(network, env, seed=0, **settings | changes)


def observe(agent, values, rewards, *, terminal=(), invalid=(), action=0):
    """Act on observations whose values are given, then be told what came of it."""
    seen = np.array([[value, 0.0, 0.0] for value in values], np.float32)
    count = range(len(values))
    flags = [np.array([i in each for i in count]) for each in (terminal, invalid)]
    decision = agent.act(seen, 0)
    actions = np.full(len(values), action)
    row = Row(seen, actions, np.array(rewards, np.float32), flags[0], ~flags[1])
    agent.observe(row, decision.extras)


def values_of(lesson):
    return lesson["observations"][:, 0].tolist()


# What is learned from: rollouts with values


@each_critic
def test_advantages_of_termination_truncation_and_a_lost_life_by_hand(name):
    agent = made(name, num_envs=3, rollout_steps=4)
    # Game 0 is over after its second step, game 1 is truncated after its second and its fourth,
    # game 2 loses a life with its third. The third row of 0 and 1 shows their final observations.
    observe(agent, [4, 4, 4], [1, 1, 1])
    observe(agent, [8, 8, 8], [1, 1, 1], terminal=[0])
    observe(agent, [100, 10, 10], [0, 0, 5], invalid=[0, 1], terminal=[2])
    observe(agent, [2, 2, 2], [3, 3, 3])
    assert list(agent.learn(0)) == []  # the value after the fourth step is not known yet
    observe(agent, [6, 12, 6], [7, 0, 7], invalid=[1])
    lesson = agent.lesson()
    # delta_t = r + 0.5 v' - v, A_t = delta_t + 0.25 A_(t+1), nothing after an end.
    expected = {
        # 3 + 3 - 2 = 4; 1 - 8 = -7; 1 + 4 - 4 - 0.25 * 7
        (0, 4): -0.75, (0, 8): -7.0, (0, 2): 4.0,
        # 3 + 6 - 2 = 7; 1 + 5 - 8 = -2; 1 + 4 - 4 - 0.25 * 2
        (1, 4): 0.5, (1, 8): -2.0, (1, 2): 7.0,
        # 4; 5 - 10 = -5; 1 + 5 - 8 - 0.25 * 5 = -3.25; 1 + 4 - 4 - 0.25 * 3.25
        (2, 4): 0.1875, (2, 8): -3.25, (2, 10): -5.0, (2, 2): 4.0,
    }  # fmt: skip
    order = [(0, 4), (1, 4), (2, 4), (0, 8), (1, 8), (2, 8), (2, 10), (0, 2), (1, 2), (2, 2)]
    assert values_of(lesson) == [value for _, value in order]
    assert lesson["advantage"].tolist() == [expected[key] for key in order]
    assert lesson["return"].tolist() == [expected[key] + key[1] for key in order]
    assert lesson["value"].tolist() == values_of(lesson)
    assert {lesson[key].dtype for key in ("advantage", "return", "value")} == {torch.float32}


@each_critic
def test_the_end_of_an_iteration_truncates_and_the_rollout_goes_on(name):
    agent = made(name, num_envs=1, rollout_steps=3)
    observe(agent, [4], [1])
    agent.close(np.array([[8, 0, 0]], np.float32))
    observe(agent, [2], [3])
    observe(agent, [6], [0])
    lesson = agent.lesson()
    assert values_of(lesson) == [4, 2]
    assert lesson["return"].tolist() == [1 + 0.5 * 8, 3 + 0.5 * 6]


@each_critic
def test_learning_sees_rewards_times_the_scale_and_values_as_they_are(name):
    agent = made(name, num_envs=1, rollout_steps=1, reward_scale=0.1)
    observe(agent, [4], [100])
    observe(agent, [2], [0])
    assert agent.lesson()["return"].tolist() == [10 + 0.5 * 2]


@each_critic
def test_rows_that_are_no_transitions_leave_no_trace_in_the_weights(name):
    def learned(reward, action, value):
        agent = made(name, num_envs=2, rollout_steps=3)
        observe(agent, [4, 5], [1, 2], terminal=[0])
        observe(agent, [value, 6], [reward, 1], invalid=[0], action=action)
        observe(agent, [2, 7], [3, 1])
        observe(agent, [1, 1], [0, 0])
        (metrics,) = agent.learn(0)
        weights = [p.item() for p in agent.network.parameters()]
        return weights, {key: float(value) for key, value in metrics.items()}

    assert learned(0, 1, 1) == learned(0, 1, 1_000) == learned(50, 1, 1)
    assert learned(0, 1, 1)[0] != [1.0, 1.0]


def test_a_rollout_of_nothing_but_starts_of_episodes_is_forgotten():
    agent = made("ppo", num_envs=1, rollout_steps=2, minibatches=2)
    for value, invalid in ((4, [0]), (4, [0]), (4, [])):
        observe(agent, [value], [1], invalid=invalid)
    assert list(agent.learn(0)) == []
    assert agent.rollout.rows == 1


def test_what_acting_answered_is_what_learning_gets():
    agent = made("ppo", num_envs=2, rollout_steps=1)
    seen = np.array([[7.0, 0.0, log(3.0)], [1.0, log(3.0), 0.0]], np.float32)
    decision = agent.act(seen, 0)
    assert decision.extras["value"].tolist() == [7.0, 1.0]
    likely = np.where(decision.actions == [1, 0], 0.75, 0.25)
    assert np.exp(decision.extras["log_prob"]).tolist() == pytest.approx(likely.tolist())


def test_each_epoch_shuffles_all_valid_steps_into_the_minibatches():
    agent = made("ppo", num_envs=2, rollout_steps=5, epochs=3, minibatches=4)
    for number in range(6):
        observe(agent, [10 * number, 10 * number + 1], [0, 0], invalid=[0] if number == 2 else [])
    seen = []
    agent.update = lambda batch: seen.append(values_of(batch)) or {}
    assert len(list(agent.learn(0))) == 12
    epochs = [seen[i : i + 4] for i in (0, 4, 8)]
    orders = [[number for part in epoch for number in part] for epoch in epochs]
    assert all(sorted(o) == [0, 1, 10, 11, 21, 30, 31, 40, 41] for o in orders)
    assert orders[0] != orders[1] != orders[2]
    assert all(sorted(map(len, epoch)) == [2, 2, 2, 3] for epoch in epochs)
    assert agent.rollout.rows == 1


def test_a2c_learns_from_a_rollout_at_once():
    agent = made("a2c", num_envs=2, rollout_steps=5)
    for number in range(6):
        observe(agent, [number, number], [1, 1])
    assert len(list(agent.learn(0))) == 1
    assert agent.sample(np.random.default_rng(0)).shape == (10, 3)


def test_the_share_of_the_returns_that_values_explain():
    returns = torch.tensor([1.0, 2.0, 3.0])
    for values, share in [(returns + 5, 1.0), (0 * returns, 0.0), (2 * returns, 0.0)]:
        explained = explained_variance(values, returns)
        assert explained["value/explained_variance"].item() == share
    assert explained_variance(returns, torch.ones(3)) == {}
    assert explained_variance(torch.ones(0), torch.ones(0)) == {}


def test_updates_say_what_share_the_values_of_acting_explain():
    agent = made("ppo", num_envs=2, rollout_steps=1, gamma=0.0)
    observe(agent, [1, 3], [1, 5])
    observe(agent, [0, 0], [0, 0])
    # Returns 1 and 5, values 1 and 3: variances 4 of the returns, 1 of what is left.
    (metrics,) = agent.learn(0)
    assert metrics["value/explained_variance"].item() == 0.75


# What is learned from: whole episodes


def test_returns_of_ended_episodes_by_hand():
    agent = made("reinforce", num_envs=3, rollout_steps=4)
    # Game 0 is over with its second step; game 1 is truncated after its first; game 2 runs on.
    observe(agent, [1, 11, 21], [1, 1, 1])
    observe(agent, [2, 99, 22], [4, 0, 1], terminal=[0], invalid=[1])
    observe(agent, [99, 12, 23], [0, 2, 1], invalid=[0])
    assert list(agent.learn(0)) == []
    observe(agent, [3, 13, 24], [8, 6, 1], terminal=[1])
    lesson = agent.lesson()
    # Game 0: 1 + 0.5 * 4 and 4; game 1: 1, then 2 + 0.5 * 6 and 6; the third step of 0 runs on.
    assert values_of(lesson) == [1, 11, 2, 12, 13]
    assert lesson["return"].tolist() == [3.0, 1.0, 4.0, 5.0, 6.0]
    assert lesson["return"].dtype == torch.float32
    # Game 2's end brings all of its steps, game 0's new step, and nothing twice.
    observe(agent, [4, 98, 25], [2, 0, 1], terminal=[0, 2], invalid=[1])
    lesson = agent.lesson()
    assert values_of(lesson) == [21, 22, 23, 3, 24, 4, 25]
    assert lesson["return"].tolist() == [1.9375, 1.875, 1.75, 9.0, 1.5, 2.0, 1.0]
    assert agent.rows == []


def test_a_row_is_kept_only_while_a_running_episode_needs_it():
    agent = made("reinforce", num_envs=2, rollout_steps=3)
    for number in range(3):
        observe(agent, [number, 10 + number], [1, 1], terminal=[0] if number == 1 else [])
    list(agent.learn(0))
    assert len(agent.rows) == 3  # the second game has run since the first row
    observe(agent, [3, 13], [1, 1], terminal=[1])
    for number in range(2):
        observe(agent, [4 + number, 14 + number], [1, 1])
    list(agent.learn(0))
    assert [row.observations[0, 0] for row in agent.rows] == [2, 3, 4, 5]


def test_a_lost_life_ends_the_return_although_the_game_goes_on():
    agent = made("reinforce", num_envs=1, rollout_steps=2)
    observe(agent, [1], [4], terminal=[0])
    observe(agent, [2], [8])
    observe(agent, [3], [16], terminal=[0])
    lesson = agent.lesson()
    assert values_of(lesson) == [1, 2, 3]
    assert lesson["return"].tolist() == [4.0, 16.0, 16.0]


def test_the_end_of_an_iteration_ends_running_episodes():
    agent = made("reinforce", num_envs=1, rollout_steps=2)
    observe(agent, [1], [4])
    agent.close(np.array([[9, 0, 0]], np.float32))
    observe(agent, [2], [8])
    lesson = agent.lesson()
    assert values_of(lesson) == [1]
    assert lesson["return"].tolist() == [4.0]


def test_without_an_ended_episode_there_is_no_update():
    agent = made("reinforce", num_envs=1, rollout_steps=2)
    for number in range(4):
        observe(agent, [number], [1])
        assert list(agent.learn(0)) == []
    observe(agent, [4], [1], terminal=[0])
    observe(agent, [5], [1])
    assert len(list(agent.learn(0))) == 1


# Updates


def batch_of(observations, action, advantage):
    count = len(observations)
    log_prob = torch.full((count,), log(0.5))
    numbers = {"advantage": float(advantage), "return": float(advantage), "value": 0.0}
    columns = {name: torch.full((count,), number) for name, number in numbers.items()}
    actions = torch.full((count,), action)
    return {"observations": observations, "actions": actions, "log_prob": log_prob, **columns}


@each_algorithm
@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_a_step_raises_the_probability_of_what_was_better_than_expected(name, advantage):
    network = Noisy(0, 1 if name == "reinforce" else 2)
    own = "normalize_returns" if name == "reinforce" else "normalize_advantages"
    agent = made(name, network, learning_rate=1e-2, **{own: False})
    observations = torch.from_numpy(np.random.default_rng(0).standard_normal((32, 3))).float()

    def probability():
        draws = torch.Generator().manual_seed(0)
        outputs = network.train()(observations, generator=draws)
        logits = outputs if name == "reinforce" else outputs["policy"]
        return categorical(logits, torch.ones(32, dtype=torch.int64))[0].exp().mean().item()

    before = probability()
    agent.update(batch_of(observations, 1, advantage))
    assert (probability() - before) * advantage > 1e-3


@each_algorithm
def test_entropy_in_the_loss_flattens_the_policy(name):
    agent = made(name, entropy_coef=1.0)
    agent.update(batch_of(torch.tensor([[0.0, 0.0, 2.0]] * 4), 1, 0.0))
    assert agent.network.of_logits.item() < 1.0


def test_the_loss_of_a2c_by_hand():
    # Two equal logits: log pi = -log 2. Advantages 1 and 3, returns 2 and 6 at values 1 and 2.
    agent = made("a2c", value_coef=0.5, entropy_coef=0.1)
    observations = torch.tensor([[1.0, 0.0, 0.0], [2.0, 0.0, 0.0]])
    batch = batch_of(observations, 0, 0.0)
    batch |= {"advantage": torch.tensor([1.0, 3.0]), "return": torch.tensor([2.0, 6.0])}
    loss, metrics = agent.loss(batch, agent.network(observations))
    assert metrics["loss/policy"].item() == pytest.approx(2 * log(2))
    assert metrics["loss/value"].item() == pytest.approx((1 + 16) / 2)
    assert metrics["policy/entropy"].item() == pytest.approx(log(2))
    assert loss.item() == pytest.approx(2 * log(2) + 0.5 * 8.5 - 0.1 * log(2))


def test_the_loss_of_reinforce_by_hand():
    # log pi = log(3/4) and log(1/4); returns 1 and 3 become -1 and 1 times the root of 1/2.
    observations = torch.tensor([[0.0, 0.0, log(3.0)]] * 2)
    batch = batch_of(observations, 0, 0.0)
    batch |= {"actions": torch.tensor([1, 0]), "return": torch.tensor([1.0, 3.0])}
    for normalize, expected in [
        (True, -(0.5**0.5) * (log(0.25) - log(0.75)) / 2),
        (False, -(log(0.75) + 3 * log(0.25)) / 2),
    ]:
        agent = made("reinforce", normalize_returns=normalize)
        loss, metrics = agent.loss(batch, {"policy": agent.network(observations)})
        assert loss.item() == metrics["loss/policy"].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_the_loss_of_ppo_is_the_originals(path):
    golden = np.load(path)
    continuous = "mean" in golden
    agent = made(
        "ppo",
        env=PENDULUM if continuous else ENV,
        clip_ratio=float(golden["clip_coef"]),
        clip_values=bool(golden["clip_vloss"]),
        normalize_advantages=bool(golden["norm_adv"]),
        value_coef=float(golden["vf_coef"]),
        entropy_coef=float(golden["ent_coef"]),
    )
    names = {"log_prob": "old_logprob", "value": "old_values", "advantage": "advantages"}
    names |= {"return": "returns", "actions": "actions"}
    batch = {ours: torch.from_numpy(golden[theirs]) for ours, theirs in names.items()}
    names = ("mean", "logstd") if continuous else ("logits",)
    parts = {name: torch.from_numpy(golden[name]).requires_grad_() for name in names}
    of_policy = torch.cat([each.expand(len(golden["actions"]), -1) for each in parts.values()], 1)
    values = torch.from_numpy(golden["new_values"]).requires_grad_()
    loss, metrics = agent.loss(batch, {"policy": of_policy, "value": values.unsqueeze(1)})
    loss.backward()
    theirs = {"loss/policy": "policy_loss", "loss/value": "value_loss"}
    theirs |= {"policy/entropy": "entropy_loss", "policy/approx_kl": "approx_kl"}
    found = {theirs[key]: metrics[key] for key in theirs} | {"loss": loss.detach()}
    found |= {"clipfrac": metrics["policy/clip_fraction"]}
    found |= {f"dloss_d{name}": each.grad for name, each in parts.items()}
    found |= {"dloss_dnew_values": values.grad}
    for name, ours in found.items():
        np.testing.assert_allclose(ours, golden[name], rtol=0, atol=5e-6, err_msg=name)
    assert not any(value.requires_grad for value in metrics.values())


@each_algorithm
@pytest.mark.parametrize(("limit", "factor"), [(None, 1.0), (100.0, 1.0), (1e-3, 1e-3)])
def test_the_gradient_is_clipped_to_its_largest_norm(name, limit, factor):
    agent = made(name, max_grad_norm=limit)
    seen = torch.tensor([[3.0, 0.0, 2.0], [1.0, 1.0, 0.0]])
    batch = batch_of(seen, 0, 1.0) | {"return": torch.tensor([1.0, 3.0])}
    metrics = agent.update(batch)
    norms = [p.grad.norm().item() for p in agent.network.parameters() if p.grad is not None]
    left = np.linalg.norm(norms)
    reported = float(metrics["grad/norm"])
    assert left == pytest.approx(reported if factor == 1.0 else limit, rel=1e-3)
    assert reported > 0.01


@each_algorithm
@pytest.mark.parametrize(("decay", "rates"), [(100, [0.1, 0.05, 0.0]), (None, [0.1] * 3)])
def test_the_learning_rate_falls_to_zero_in_the_optimizer(name, decay, rates):
    agent = made(name, num_envs=1, rollout_steps=1, learning_rate_decay_steps=decay)
    observe(agent, [4], [1], terminal=[0])
    found = []
    for step in (0, 50, 100):
        observe(agent, [4], [1], terminal=[0])
        assert list(agent.learn(step))
        found += [group["lr"] for group in agent.optimizer.param_groups]
    assert found == rates


@each_algorithm
def test_the_network_acts_in_evaluation_mode_and_learns_in_training_mode(name):
    network = Noisy(0, 1 if name == "reinforce" else 2)
    agent = made(name, network, num_envs=2, rollout_steps=2)
    for _ in range(3):
        observe(agent, [1, 2], [0, 1], terminal=[0, 1])
        list(agent.learn(0))
    observe(agent, [1, 2], [0, 1])
    agent.close(np.zeros((2, 3), np.float32))
    closing = [] if name == "reinforce" else [False]
    # An actor-critic learns once the row after the rollout is there.
    acted = 2 if name == "reinforce" else 3
    assert network.modes == [*[False] * acted, True, *[False] * (4 - acted), *closing]


# Acting


def test_actions_are_drawn_with_the_probabilities_of_the_logits():
    policy = made("ppo").policy(Shown(2), ACTIONS)
    assert isinstance(policy, Sampled)
    seen = np.tile(np.array([[0.0, 0.0, log(4.0)]], np.float32), (20_000, 1))
    choice = policy.act(seen, np.random.default_rng(0))
    assert choice.actions.mean() == pytest.approx(0.8, abs=0.01)
    assert choice.outputs.shape == (20_000, ACTIONS)
    mixed = made("ppo").policy(Shown(2), ACTIONS, epsilon=0.5)
    assert mixed.act(seen, np.random.default_rng(0)).actions.mean() == pytest.approx(
        0.65, abs=0.015
    )


def test_a_likely_action_is_not_always_the_one_with_the_largest_logit():
    policy = REINFORCE.policy(Shown(1), ACTIONS)
    seen = np.tile(np.array([[0.0, 0.0, 1.0]], np.float32), (1_000, 1))
    share = policy.act(seen, np.random.default_rng(1)).actions.mean()
    assert share == pytest.approx(exp(1) / (1 + exp(1)), abs=0.05)


# Exact continuation


def play(agent, steps, seed, features=3):
    """Some rows of random observations, rewards and ends; the metrics of all updates."""
    rng, metrics = np.random.default_rng(seed), []
    for step in range(steps):
        seen = rng.standard_normal((2, features)).astype(np.float32)
        decision = agent.act(seen, step)
        rewards, ends = rng.standard_normal(2).astype(np.float32), rng.random((2, 2)) < 0.2
        agent.observe(Row(seen, decision.actions, rewards, ends[0], ~ends[1]), decision.extras)
        metrics += [{k: v.item() for k, v in each.items()} for each in agent.learn(step)]
        if step % 7 == 6:
            agent.close(seen)
    return metrics


@each_algorithm
def test_a_state_loaded_in_the_middle_of_a_rollout_continues_bit_for_bit(name):
    def agent_of(seed):
        cls, more = ALGORITHMS[name], {"epochs": 2, "minibatches": 2} if name == "ppo" else {}
        network = Noisy(seed, 1 if name == "reinforce" else 2)
        settings = {"num_envs": 2, "rollout_steps": 8, "learning_rate_decay_steps": 99}
        return cls(network, ENV, seed=seed, **settings, **more)

    agent, other = agent_of(0), agent_of(5)
    play(agent, 20, seed=1)
    assert agent.updates > 0
    written = io.BytesIO()
    torch.save(pack(agent.state_dict()), written)
    written.seek(0)
    other.load_state_dict(unpack(torch.load(written, weights_only=True)))
    assert torch.equal(
        other.sample(np.random.default_rng(0)), agent.sample(np.random.default_rng(0))
    )
    ours, theirs = play(agent, 30, seed=2), play(other, 30, seed=2)
    assert ours == theirs != []
    assert other.updates == agent.updates
    weights = [each.network.state_dict() for each in (agent, other)]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_a_state_of_a_version_that_kept_no_extras_of_acting_can_be_loaded():
    agent, other = made("reinforce", num_envs=2), made("reinforce", num_envs=2)
    observe(agent, [1, 2], [0, 0])
    state = agent.state_dict()
    del state["extras"]
    other.load_state_dict(unpack(pack(state)))
    assert len(other.extras) == len(other.rows) == 1
    observe(other, [1, 2], [0, 0])


@each_algorithm
def test_the_state_of_an_agent_that_has_seen_nothing_can_be_loaded(name):
    agent, other = made(name, num_envs=2), made(name, num_envs=2)
    other.load_state_dict(unpack(pack(agent.state_dict())))
    assert other.sample(np.random.default_rng(0)) is None
    observe(other, [1, 2], [0, 0])


# What is asked of the class

FITTING = {
    **{"num_envs": 8, "rollout_steps": 16, "epochs": 2, "minibatches": 4},
    **{"learning_rate_decay_steps": 1_000, "iteration_steps": 500, "shared_trunk": True},
}
IMAGES = EnvSpec((4, 10, 10), 6, stack=1)
RUN = RunFacts(1_000, IMAGES)
GB = 10**9


@pytest.mark.parametrize(
    ("name", "changes", "run", "keys"),
    [
        ("ppo", {}, RUN, []),
        ("ppo", {"minibatches": 64}, RUN, []),
        ("ppo", {"minibatches": 65}, RUN, ["algo.minibatches"]),
        ("ppo", {}, RunFacts(129, IMAGES), []),
        ("ppo", {}, RunFacts(128, IMAGES), ["budget.steps"]),
        ("reinforce", {}, RunFacts(128, IMAGES), ["budget.steps"]),
        ("a2c", {}, RunFacts(1_001, IMAGES), ["algo.learning_rate_decay_steps"]),
        ("reinforce", {}, RunFacts(1_001, IMAGES), ["algo.learning_rate_decay_steps"]),
        ("ppo", {"learning_rate_decay_steps": None}, RunFacts(1_001, IMAGES), []),
        ("a2c", {}, RunFacts(999, IMAGES, {"cpu": 10_000, "device": GB}), ["algo.rollout_steps"]),
        (
            "reinforce",
            {},
            RunFacts(999, IMAGES, {"cpu": 9, "device": GB}),
            ["algo.iteration_steps"],
        ),
        ("ppo", {}, RunFacts(1_000, IMAGES, {"cpu": GB, "device": 0}), []),
    ],
)
def test_arguments_that_do_not_fit_each_other_or_the_run_are_problems(name, changes, run, keys):
    arguments = FITTING | changes
    if name != "ppo":
        arguments = {k: v for k, v in arguments.items() if k not in ("epochs", "minibatches")}
    assert [problem.key for problem in ALGORITHMS[name].problems(arguments, run)] == keys


def test_memory_counts_the_rows_that_may_be_held_and_the_copy_to_learn_from():
    # Observation, action, reward, two flags, value and log-probability, twice, of M + 2 rows.
    assert PPO.memory_bytes(FITTING, IMAGES) == 2 * 18 * 8 * (400 + 8 + 4 + 1 + 1 + 4 + 4)
    assert REINFORCE.memory_bytes(FITTING, IMAGES) == 2 * 500 * (400 + 8 + 4 + 1 + 1 + 1)


@each_algorithm
def test_updates_made_are_those_that_learning_makes(name):
    more = {"epochs": 2, "minibatches": 4} if name == "ppo" else {}
    agent, arguments = made(name, num_envs=8, rollout_steps=16, **more), FITTING
    if name != "ppo":
        arguments = {k: v for k, v in FITTING.items() if k not in ("epochs", "minibatches")}
    for rows in range(1, 40):
        observe(agent, [1] * 8, [0] * 8, terminal=range(8))
        list(agent.learn(0))
        assert agent.updates == ALGORITHMS[name].updates_made(arguments, 8 * rows)
    assert agent.updates > 0


@each_algorithm
def test_heads_and_torsos_are_what_the_arguments_say(name):
    cls = ALGORITHMS[name]
    expected = {"policy": 6} if name == "reinforce" else {"policy": 6, "value": 1}
    assert cls.heads(6, FITTING) == expected
    assert cls.own_torsos(FITTING) == ()
    apart = cls.own_torsos(FITTING | {"shared_trunk": False})
    assert apart == (() if name == "reinforce" else ("value",))
    assert set(cls.head_gains) == set(expected)
