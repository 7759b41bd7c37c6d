"""PQN on tiny networks: targets by hand, one update taken apart, exact continuation."""

import copy
import io

import numpy as np
import pytest
import torch

from sdqn_lab.agents.base import EnvSpec, Row, RunFacts
from sdqn_lab.agents.pqn import PQN
from sdqn_lab.training.checkpoint import pack, unpack
from tests.agents.test_policy_gradients import play
from tests.toy_networks import ACTIONS, FEATURES, Table, TinyNetwork

GB = 10**9


def table_agent(**changes):
    settings = {"gamma": 0.5, "q_lambda": 0.5, "epochs": 1, "minibatches": 1}
    env = EnvSpec((2,), 2, dtype=torch.float32)
    return PQN(Table(), env, seed=0, **(settings | {"learning_rate": 0.1} | changes))


def observe(agent, values, rewards, *, terminal=(), invalid=(), action=0):
    """Act on observations whose largest values are given, then be told what came of it."""
    seen = np.array([[value, value - 1.0] for value in values], np.float32)
    count = range(len(values))
    flags = [np.array([i in each for i in count]) for each in (terminal, invalid)]
    decision = agent.act(seen, 0)
    actions = np.full(len(values), action)
    row = Row(seen, actions, np.array(rewards, np.float32), flags[0], ~flags[1])
    agent.observe(row, decision.extras)


# Targets


def test_targets_of_termination_truncation_and_a_lost_life_by_hand():
    agent = table_agent(num_envs=3, rollout_steps=4)
    # Game 0 is over after its second step, game 1 is truncated after its second and its fourth,
    # game 2 loses a life with its third. The third row of 0 and 1 shows their final observations.
    observe(agent, [4, 4, 4], [1, 1, 1])
    observe(agent, [8, 8, 8], [1, 1, 1], terminal=[0])
    observe(agent, [100, 10, 10], [0, 0, 5], invalid=[0, 1], terminal=[2])
    observe(agent, [2, 2, 2], [3, 3, 3])
    assert list(agent.learn(0)) == []  # the value after the fourth step is not known yet
    observe(agent, [6, 12, 6], [7, 0, 7], invalid=[1])
    lesson = agent.lesson()
    expected = {
        # 3 + 0.5 * 6 = 6; 1; 1 + 0.5 * (0.5 * 8 + 0.5 * 1) = 3.25
        (0, 4): 3.25, (0, 8): 1.0, (0, 2): 6.0,
        # 3 + 0.5 * 12 = 9; 1 + 0.5 * 10 = 6; 1 + 0.5 * (0.5 * 8 + 0.5 * 6) = 4.5
        (1, 4): 4.5, (1, 8): 6.0, (1, 2): 9.0,
        # 3 + 3 = 6; 5; 1 + 0.5 * (0.5 * 10 + 0.5 * 5) = 4.75; 1 + 0.5 * (0.5 * 8 + 0.5 * 4.75)
        (2, 4): 4.1875, (2, 8): 4.75, (2, 10): 5.0, (2, 2): 6.0,
    }  # fmt: skip
    order = [(0, 4), (1, 4), (2, 4), (0, 8), (1, 8), (2, 8), (2, 10), (0, 2), (1, 2), (2, 2)]
    assert lesson.observations[:, 0].tolist() == [value for _, value in order]
    assert lesson.targets.tolist() == [expected[key] for key in order]
    assert (lesson.targets.dtype, lesson.actions.dtype) == (torch.float32, torch.int64)


def test_the_end_of_an_iteration_truncates_and_the_rollout_goes_on():
    agent = table_agent(num_envs=1, rollout_steps=3)
    observe(agent, [4], [1])
    agent.close(np.array([[8, 0]], np.float32))
    observe(agent, [2], [3])
    observe(agent, [6], [0])
    lesson = agent.lesson()
    assert lesson.observations[:, 0].tolist() == [4, 2]
    assert lesson.targets.tolist() == [1 + 0.5 * 8, 3 + 0.5 * 6]


def test_an_iteration_that_ends_with_a_rollout_gives_its_last_value():
    agent = table_agent(num_envs=1, rollout_steps=2)
    observe(agent, [4], [1])
    observe(agent, [2], [3])
    agent.close(np.array([[8, 0]], np.float32))
    observe(agent, [50], [0])
    assert agent.lesson().targets.tolist() == [1 + 0.5 * (0.5 * 2 + 0.5 * 7), 3 + 0.5 * 8]
    assert len(list(agent.learn(0))) == 1
    assert list(agent.learn(0)) == []


def test_learning_sees_rewards_times_the_scale_and_values_as_they_are():
    agent = table_agent(num_envs=1, rollout_steps=1, reward_scale=0.1)
    observe(agent, [4], [100])
    observe(agent, [2], [0])
    assert agent.lesson().targets.tolist() == [10 + 0.5 * 2]


def test_values_are_those_of_acting_also_where_all_actions_are_random():
    agent = table_agent(num_envs=2, epsilon_begin=1.0, epsilon_end=1.0)
    decision = agent.act(np.array([[1, 5], [3, 2]], np.float32), 0)
    assert decision.extras["value"].tolist() == [5, 3]
    network = TinyNetwork()
    agent = PQN(network, EnvSpec((FEATURES,), ACTIONS, dtype=torch.float32), seed=0)
    agent.act(np.zeros((4, FEATURES), np.float32), 0)
    assert network.calls == [(False, None)]


def test_exploration_follows_its_schedule():
    agent = table_agent(epsilon_begin=1.0, epsilon_end=0.0, epsilon_decay_steps=10)
    seen = np.tile(np.array([[1, 0]], np.float32), (4_000, 1))
    others = [np.mean(agent.act(seen, step).actions) for step in (0, 5, 10)]
    assert others == [pytest.approx(0.5, abs=0.04), pytest.approx(0.25, abs=0.04), 0.0]


# Updates


def test_one_update_by_hand():
    # Q = f * obs with f = 1: loss = (3 - 2)^2 / 2, dloss/df = -(3 - 2) * 2. In its first steps
    # RAdam does not divide: f <- 1 + 0.1 * 2.
    agent = table_agent()
    metrics = agent.update(torch.tensor([[2.0, 9.0]]), torch.tensor([0]), torch.tensor([3.0]))
    assert [metrics[key].item() for key in ("loss/td", "q/mean", "grad/norm")] == [0.5, 2.0, 2.0]
    assert agent.network.factor.item() == pytest.approx(1.2)
    assert not any(value.requires_grad for value in metrics.values())


@pytest.mark.parametrize(("limit", "moved"), [(None, 0.2), (10.0, 0.2), (0.5, 0.05)])
def test_the_gradient_is_clipped_to_its_largest_norm(limit, moved):
    agent = table_agent(max_grad_norm=limit)
    agent.update(torch.tensor([[2.0, 9.0]]), torch.tensor([0]), torch.tensor([3.0]))
    assert agent.network.factor.item() == pytest.approx(1 + moved, abs=1e-5)


@pytest.mark.parametrize(("decay", "rates"), [(100, [0.1, 0.05, 0.0]), (None, [0.1] * 3)])
def test_the_learning_rate_falls_to_zero_in_the_optimizer(decay, rates):
    agent = table_agent(num_envs=1, rollout_steps=1, learning_rate_decay_steps=decay)
    observe(agent, [4], [1])
    found = []
    for step in (0, 50, 100):
        observe(agent, [4], [1])
        list(agent.learn(step))
        found += [group["lr"] for group in agent.optimizer.param_groups]
    assert found == rates


def test_each_epoch_shuffles_all_valid_steps_into_the_minibatches():
    agent = table_agent(num_envs=2, rollout_steps=5, epochs=3, minibatches=4)
    for number in range(6):
        observe(agent, [10 * number, 10 * number + 1], [0, 0], invalid=[0] if number == 2 else [])
    seen = []
    agent.update = lambda observations, *_: seen.append(observations[:, 0].tolist()) or {}
    assert len(list(agent.learn(0))) == 12
    epochs = [seen[i : i + 4] for i in (0, 4, 8)]
    orders = [[number for part in epoch for number in part] for epoch in epochs]
    assert all(sorted(o) == [0, 1, 10, 11, 21, 30, 31, 40, 41] for o in orders)
    assert orders[0] != orders[1] != orders[2]
    assert all(sorted(map(len, epoch)) == [2, 2, 2, 3] for epoch in epochs)
    assert agent.rollout.rows == 1


def test_rows_that_are_no_transitions_leave_no_trace_in_the_weights():
    def learned(reward, action, final_value):
        agent = table_agent(num_envs=2, rollout_steps=3, epochs=2, minibatches=2)
        observe(agent, [4, 5], [1, 2], terminal=[0])
        observe(agent, [final_value, 6], [reward, 1], invalid=[0], action=action)
        observe(agent, [2, 7], [3, 1])
        observe(agent, [1, 1], [0, 0])
        list(agent.learn(0))
        return agent.network.factor.item()

    assert learned(0, 0, 1) == learned(0, 0, 1_000) != 1.0
    agent = table_agent(num_envs=1, rollout_steps=2, epochs=2, minibatches=2)
    for value, invalid in ((4, [0]), (4, [0]), (4, [])):
        observe(agent, [value], [1], invalid=invalid)
    assert list(agent.learn(0)) == []  # nothing but starts of episodes
    assert agent.rollout.rows == 1


def test_observations_of_the_last_minibatch_are_kept_until_the_next():
    agent = table_agent(num_envs=2, rollout_steps=4, minibatches=4)
    for number in range(5):
        assert agent.sample(np.random.default_rng(0)) is None
        observe(agent, [number, number], [0, 0])
    list(agent.learn(0))
    kept = agent.sample(np.random.default_rng(0))
    assert kept.shape == (2, 2)
    observe(agent, [9, 9], [0, 0])
    assert torch.equal(agent.sample(np.random.default_rng(1)), kept)


def test_the_network_learns_in_training_mode():
    network = TinyNetwork()
    agent = PQN(network, EnvSpec((FEATURES,), ACTIONS, dtype=torch.float32), seed=0)
    agent.update(torch.ones(4, FEATURES), torch.zeros(4, dtype=torch.int64), torch.ones(4))
    assert network.calls == [(True, None)]


# Exact continuation


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_a_state_loaded_in_the_middle_of_a_rollout_continues_bit_for_bit(noise):
    def made(seed):
        settings = {"rollout_steps": 8, "epochs": 2, "minibatches": 2, "num_envs": 2}
        env = EnvSpec((FEATURES,), ACTIONS, dtype=torch.float32)
        return PQN(
            TinyNetwork(seed, noise), env, seed=seed, learning_rate_decay_steps=99, **settings
        )

    agent, other = made(0), made(5)
    play(agent, 20, seed=1, features=FEATURES)
    assert 0 < agent.rollout.rows < 8
    assert agent.updates > 0
    written = io.BytesIO()
    torch.save(pack(agent.state_dict()), written)
    written.seek(0)
    other.load_state_dict(unpack(torch.load(written, weights_only=True)))
    assert torch.equal(
        other.sample(np.random.default_rng(0)), agent.sample(np.random.default_rng(0))
    )
    ours, theirs = (play(each, 30, seed=2, features=FEATURES) for each in (agent, other))
    assert ours == theirs != []
    assert other.updates == agent.updates
    weights = [copy.deepcopy(each.network.state_dict()) for each in (agent, other)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


# What is asked of the class

FITTING = {
    "num_envs": 8,
    "rollout_steps": 16,
    "minibatches": 4,
    "epochs": 2,
    "learning_rate_decay_steps": 1_000,
    "epsilon_begin": 1.0,
    "epsilon_end": 0.1,
}
ENV = EnvSpec((4, 10, 10), 6, stack=1)
RUN = RunFacts(1_000, ENV)


@pytest.mark.parametrize(
    ("changes", "run", "keys"),
    [
        ({}, RUN, []),
        ({"minibatches": 64}, RUN, []),
        ({"minibatches": 65}, RUN, ["algo.minibatches"]),
        ({}, RunFacts(129, ENV), []),
        ({}, RunFacts(128, ENV), ["budget.steps"]),
        ({}, RunFacts(1_001, ENV), ["algo.learning_rate_decay_steps"]),
        ({"learning_rate_decay_steps": None}, RunFacts(1_001, ENV), []),
        ({"epsilon_begin": 0.05}, RUN, ["algo.epsilon_end"]),
        ({}, RunFacts(1_000, ENV, {"cpu": 10_000, "device": GB}), ["algo.rollout_steps"]),
        ({}, RunFacts(1_000, ENV, {"cpu": GB, "device": 0}), []),
    ],
)
def test_arguments_that_do_not_fit_each_other_or_the_run_are_problems(changes, run, keys):
    assert [problem.key for problem in PQN.problems(FITTING | changes, run)] == keys


def test_memory_counts_the_rows_that_a_rollout_may_hold_and_the_copy_to_learn_from():
    # Observation, action, reward, two flags and the value, twice, of M + 2 rows.
    assert PQN.memory_bytes(FITTING, ENV) == 2 * 18 * 8 * (400 + 8 + 4 + 1 + 1 + 4)


def test_updates_made_are_those_that_learning_makes():
    assert [PQN.updates_made(FITTING, steps) for steps in (128, 129, 256, 257)] == [0, 8, 8, 16]
    agent = table_agent(num_envs=8, rollout_steps=16, epochs=2, minibatches=4)
    for rows in range(1, 40):
        observe(agent, [1] * 8, [0] * 8)
        list(agent.learn(0))
        assert agent.updates == PQN.updates_made(FITTING, 8 * rows)
