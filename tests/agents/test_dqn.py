"""DQN on a tiny network: acting, one update taken apart, target copies, exact continuation."""

import copy
import io
import math

import numpy as np
import pytest
import torch

from sdqn_lab import config
from sdqn_lab.agents.base import EnvSpec, Row, RunFacts
from sdqn_lab.agents.dqn import DQN
from sdqn_lab.agents.losses import huber, mse, td_error
from sdqn_lab.agents.replay import Batch
from sdqn_lab.assembly import build
from tests.refusals import refuses
from tests.toy_networks import ACTIONS, FEATURES, Table, TinyNetwork

ENV = EnvSpec((FEATURES,), ACTIONS, dtype=torch.float32)


def make_agent(*, noise=0.0, seed=0, env=ENV, **changes):
    settings = {
        "double": True,
        "loss": "mse",
        "optimizer": "adamw",
        "learning_rate": 0.01,
        "weight_decay": 0.01,
        "target_update_every_updates": 3,
        "replay_capacity_steps": 100,
    }
    return DQN(TinyNetwork(seed, noise), env, seed=seed, **(settings | changes))


def make_batch(seed, size=16):
    generator = torch.Generator().manual_seed(seed)
    return Batch(
        observations=torch.randn(size, FEATURES, generator=generator),
        actions=torch.randint(ACTIONS, (size,), generator=generator),
        returns=torch.randn(size, generator=generator),
        discounts=0.9 * torch.randint(2, (size,), generator=generator),
        next_observations=torch.randn(size, FEATURES, generator=generator),
    )


def observations(count, seed=0):
    return np.random.default_rng(seed).standard_normal((count, FEATURES)).astype(np.float32)


def snapshot(module):
    return copy.deepcopy(dict(module.state_dict()))


def equal(first, second):
    return all(torch.equal(first[name], second[name]) for name in first | second)


def parameters_equal(first, second):
    names = [name for name in first if "running" not in name and "num_batches" not in name]
    return equal({name: first[name] for name in names}, {name: second[name] for name in names})


def table_agent(**changes):
    settings = {"loss": "mse", "target_update_every_updates": 1, "replay_capacity_steps": 100}
    env = EnvSpec((4,), 4, dtype=torch.float32)
    agent = DQN(Table(), env, seed=0, **(settings | changes))
    agent.optimizer = torch.optim.SGD(agent.network.parameters(), lr=0.1)
    return agent


def greedy(agent, epsilon=0.0):
    draws = agent.generator
    return agent.policy(agent.network, agent.env.num_actions, epsilon=epsilon, generator=draws)


# Acting


def act(agent, inputs, epsilon, rng, time_window=None):
    return greedy(agent, epsilon).act(inputs, rng, time_window).actions


def test_epsilon_zero_acts_greedily():
    agent, inputs = make_agent(), observations(50)
    choice = greedy(agent).act(inputs, np.random.default_rng(0))
    assert choice.actions.dtype == np.int64
    assert choice.actions.tolist() == greedy(agent).outputs(inputs).argmax(1).tolist()
    assert torch.equal(choice.outputs, greedy(agent).outputs(inputs))
    assert not choice.explored.any()


def test_epsilon_one_acts_uniformly_without_a_forward():
    agent = make_agent()
    choice = greedy(agent, 1.0).act(observations(30_000), np.random.default_rng(0))
    assert agent.network.calls == []
    assert choice.outputs is None
    assert choice.explored.all()
    # Binomial with mean 10,000 and standard deviation 82.
    assert np.abs(np.bincount(choice.actions, minlength=ACTIONS) - 10_000).max() < 5 * 82


def test_epsilon_is_the_frequency_of_exploration():
    # Greedy is always action 0; a random action differs from it three times in four.
    agent, inputs = table_agent(), np.tile(np.float32([[1, 0, 0, 0]]), (40_000, 1))
    actions = act(agent, inputs, 0.2, np.random.default_rng(1))
    assert np.mean(actions != 0) == pytest.approx(
        0.2 * 3 / 4, abs=5 * np.sqrt(0.15 * 0.85 / 40_000)
    )


def test_environments_explore_independently():
    agent, inputs = table_agent(), np.tile(np.float32([[1, 0, 0, 0]]), (200, 1))
    actions = act(agent, inputs, 0.5, np.random.default_rng(2))
    assert 0 < np.count_nonzero(actions) < 200


def test_equal_values_take_the_first_action():
    agent = table_agent()
    values = np.float32([[0, 0, 0, 0], [1, 2, 2, 0], [0, 0, 0, 1]])
    assert act(agent, values, 0.0, np.random.default_rng(0)).tolist() == [0, 1, 3]


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
def test_acting_uses_the_same_draws_whatever_epsilon_is(epsilon):
    rng, reference = np.random.default_rng(3), np.random.default_rng(3)
    act(make_agent(), observations(5), epsilon, rng)
    reference.random(5)
    reference.integers(ACTIONS, size=5)
    assert rng.bit_generator.state == reference.bit_generator.state


def test_acting_leaves_parameters_and_running_statistics_alone():
    agent = make_agent()
    before = snapshot(agent.network), snapshot(agent.target_network)
    agent.network.train()
    act(agent, observations(20), 0.5, np.random.default_rng(0))
    assert equal(before[0], snapshot(agent.network))
    assert equal(before[1], snapshot(agent.target_network))
    assert all(parameter.grad is None for parameter in agent.network.parameters())


def test_time_window_reaches_the_network():
    agent = make_agent()
    act(agent, observations(2), 0.0, np.random.default_rng(0), time_window=7)
    act(agent, observations(2), 0.0, np.random.default_rng(0))
    assert agent.network.calls == [(False, 7), (False, None)]


def test_values_of_a_row_do_not_depend_on_the_rows_beside_it():
    agent, inputs = make_agent(), observations(8)
    agent.update(make_batch(0))
    policy = greedy(agent)
    together = policy.outputs(inputs)
    apart = torch.cat([policy.outputs(inputs[i : i + 1]) for i in range(8)])
    torch.testing.assert_close(together, apart)


def test_training_explores_by_the_schedule():
    # Greedy is always action 0; epsilon falls from 1 to 0 over ten steps.
    agent = table_agent(epsilon_begin=1.0, epsilon_end=0.0, epsilon_decay_steps=10)
    inputs = np.tile(np.float32([[1, 0, 0, 0]]), (4_000, 1))
    others = [np.mean(agent.act(inputs, step).actions != 0) for step in (0, 5, 10)]
    assert others == [pytest.approx(0.75, abs=0.04), pytest.approx(0.375, abs=0.04), 0.0]
    assert [agent.metrics(step) for step in (0, 5, 10)] == [
        {"epsilon": 1.0},
        {"epsilon": 0.5},
        {"epsilon": 0.0},
    ]


# Remembering and learning


def row(agent, value):
    nothing = np.zeros(agent.num_envs, np.float32)
    seen = np.full((agent.num_envs, FEATURES), value, np.float32)
    return Row(seen, nothing.astype(np.int64), nothing, nothing > 0, nothing == 0)


def test_updates_are_due_by_the_count_of_steps_and_never_before_there_is_a_batch():
    overrides = {"num_envs": 2, "batch_size": 4, "replay_start_steps": 10, "learn_every_steps": 5}
    agent = make_agent(**overrides)
    assert list(agent.learn(10)) == []
    assert list(agent.learn(25)) == []  # three are due, and nothing is remembered
    for value in range(3):
        agent.observe(row(agent, value), {})
    assert len(list(agent.learn(25))) == 3
    assert list(agent.learn(29)) == []
    assert len(list(agent.learn(30))) == 1
    assert agent.updates == 4


def test_samples_are_remembered_observations_and_leave_no_trace():
    agent = make_agent(num_envs=2, batch_size=4)
    assert agent.sample(np.random.default_rng(0)) is None
    for value in range(4):
        agent.observe(row(agent, value), {})
    before = copy.deepcopy(agent.state_dict())
    seen = agent.sample(np.random.default_rng(0))
    assert seen.shape == (4, FEATURES)
    assert set(seen.flatten().tolist()) <= {0.0, 1.0, 2.0}
    assert str(agent.state_dict()) == str(before)


# One update


@pytest.mark.parametrize(("name", "loss"), [("mse", mse), ("huber", huber)])
@pytest.mark.parametrize("double", [True, False])
def test_an_update_is_the_gradient_step_written_out(double, name, loss):
    agent = make_agent(double=double, loss=name)
    agent.update(make_batch(0))
    online, target = copy.deepcopy(agent.network), copy.deepcopy(agent.target_network)
    optimizer = torch.optim.AdamW(online.parameters(), lr=0.01)
    optimizer.load_state_dict(copy.deepcopy(agent.optimizer.state_dict()))
    batch = make_batch(1)
    selector_q = online.eval()(batch.next_observations) if double else None
    following = target.eval()(batch.next_observations)
    q = online.train()(batch.observations)
    taken = q[torch.arange(16), batch.actions].mean()
    error = td_error(
        q, batch.actions, batch.returns, batch.discounts,
        next_q_online=selector_q, next_q_target=following,
    )  # fmt: skip
    optimizer.zero_grad()
    loss(error).backward()
    norm = torch.cat([p.grad.flatten() for p in online.parameters()]).norm()
    optimizer.step()
    metrics = agent.update(batch)
    assert equal(snapshot(online), snapshot(agent.network))
    assert metrics["loss/td"].item() == loss(error).item()
    assert metrics["q/mean"].item() == pytest.approx(taken.item())
    assert metrics["grad/norm"].item() == pytest.approx(norm.item(), rel=1e-5)


def test_metrics_are_scalars_without_a_graph():
    metrics = make_agent().update(make_batch(0))
    assert set(metrics) == {"loss/td", "q/mean", "grad/norm"}
    assert all(value.shape == () and not value.requires_grad for value in metrics.values())


def test_the_network_learns_in_training_mode_and_judges_in_evaluation_mode():
    agent = make_agent()
    agent.update(make_batch(0))
    assert agent.network.calls == [(False, None), (True, None)]
    assert agent.target_network.calls == [(False, None)]


def test_plain_dqn_does_not_ask_the_online_network_about_the_next_state():
    agent = make_agent(double=False)
    agent.update(make_batch(0))
    assert agent.network.calls == [(True, None)]


def test_an_update_moves_running_statistics_of_the_online_network_once_and_only_there():
    agent, batch = make_agent(), make_batch(0)
    inputs = agent.network.first(batch.observations).detach()
    agent.update(batch)
    # From 0 with momentum 0.1.
    torch.testing.assert_close(agent.network.norm.running_mean, 0.1 * inputs.mean(0))
    assert agent.network.norm.num_batches_tracked == 1
    assert agent.target_network.norm.running_mean.tolist() == [0.0] * 8
    assert agent.target_network.norm.num_batches_tracked == 0


def test_one_step_by_hand():
    # Q = f * obs with f = 1: y = 0.5 + 0.5 * 4 = 2.5, error = 2.5 - 2, loss = 0.25,
    # dloss/df = -2 * 0.5 * 2 = -2, f <- 1 + 0.1 * 2.
    agent = table_agent()
    metrics = agent.update(
        Batch(
            torch.tensor([[1.0, 2.0, 0.0, 0.0]]),
            torch.tensor([1]),
            torch.tensor([0.5]),
            torch.tensor([0.5]),
            torch.tensor([[0.0, 4.0, 3.0, 0.0]]),
        )
    )
    assert [metrics[key].item() for key in ("loss/td", "q/mean", "grad/norm")] == [0.25, 2.0, 2.0]
    assert agent.network.factor.item() == pytest.approx(1.2)


@pytest.mark.parametrize(("limit", "moved"), [(None, 0.2), (3.0, 0.2), (0.5, 0.05)])
def test_the_gradient_is_clipped_to_its_largest_norm(limit, moved):
    agent = table_agent(max_grad_norm=limit)
    metrics = agent.update(
        Batch(
            torch.tensor([[1.0, 2.0, 0.0, 0.0]]),
            torch.tensor([1]),
            torch.tensor([2.5]),
            torch.tensor([0.0]),
            torch.zeros(1, 4),
        )
    )
    assert metrics["grad/norm"].item() == 2.0
    assert agent.network.factor.item() == pytest.approx(1.0 + moved, abs=1e-6)


def test_no_gradient_or_step_touches_the_target_network():
    agent = make_agent(target_update_every_updates=1000)
    agent.update(make_batch(0))
    before = snapshot(agent.target_network)
    for seed in range(5):
        agent.update(make_batch(seed))
    assert equal(before, snapshot(agent.target_network))
    assert not any(p.requires_grad for p in agent.target_network.parameters())


def test_repeated_updates_fit_a_fixed_batch():
    batch = make_batch(0)._replace(discounts=torch.zeros(16))
    agent = make_agent()
    losses = [agent.update(batch)["loss/td"].item() for _ in range(200)]
    assert losses[-1] < 0.1 * losses[0]


# Target network


def test_hard_copies_come_before_the_step_at_updates_0_3_6():
    agent = make_agent(target_update_every_updates=3)
    for update in range(8):
        online, target = snapshot(agent.network), snapshot(agent.target_network)
        agent.update(make_batch(update))
        expected = online if update % 3 == 0 else target
        assert equal(expected, snapshot(agent.target_network))
        assert not parameters_equal(online, snapshot(agent.network))


def test_a_hard_copy_takes_the_running_statistics_along():
    agent = make_agent(target_update_every_updates=1)
    agent.update(make_batch(0))
    statistics = agent.network.norm.running_mean.clone()
    agent.update(make_batch(1))
    assert torch.equal(agent.target_network.norm.running_mean, statistics)


def test_both_networks_are_equal_at_the_start():
    agent = make_agent()
    assert equal(snapshot(agent.network), snapshot(agent.target_network))


def test_soft_updates_move_a_fraction_after_each_step():
    agent = make_agent(target_ema=0.25, target_update_every_updates=1)
    for update in range(4):
        target = snapshot(agent.target_network)
        agent.update(make_batch(update))
        online = snapshot(agent.network)
        for name, value in agent.target_network.named_parameters():
            expected = 0.75 * target[name] + 0.25 * online[name]
            torch.testing.assert_close(value.detach(), expected, rtol=1e-6, atol=1e-7)
        for name, value in agent.target_network.named_buffers():
            assert torch.equal(value, online[name])


# Exact continuation


def assert_same_future(first, second, updates):
    for update in range(updates):
        ours, theirs = first.update(make_batch(update)), second.update(make_batch(update))
        assert equal(ours, theirs)
        inputs, rngs = observations(4, update), [np.random.default_rng(update) for _ in range(2)]
        actions = [act(a, inputs, 0.5, r) for a, r in zip((first, second), rngs, strict=True)]
        assert actions[0].tolist() == actions[1].tolist()
    assert equal(snapshot(first.network), snapshot(second.network))
    assert equal(snapshot(first.target_network), snapshot(second.target_network))


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_agents_built_alike_stay_equal(noise):
    assert_same_future(make_agent(noise=noise), make_agent(noise=noise), 20)


@pytest.mark.parametrize("noise", [0.0, 0.1])
@pytest.mark.parametrize("target_ema", [1.0, 0.1])
def test_a_loaded_state_continues_bit_for_bit(noise, target_ema):
    settings = {"noise": noise, "target_ema": target_ema}
    agent, other = make_agent(**settings), make_agent(**settings, seed=5)
    for update in range(4):
        agent.update(make_batch(100 + update))
    written = io.BytesIO()
    torch.save(agent.state_dict(), written)
    written.seek(0)
    other.load_state_dict(torch.load(written, weights_only=True))
    assert other.updates == 4
    assert_same_future(agent, other, 8)


def plain(value):
    if isinstance(value, dict):
        return all(isinstance(k, str | int) and plain(v) for k, v in value.items())
    if isinstance(value, list | tuple):
        return all(plain(item) for item in value)
    return value is None or type(value) in (torch.Tensor, bool, int, float, str)


def test_the_state_holds_only_tensors_and_plain_containers():
    agent = make_agent(noise=0.1)
    agent.update(make_batch(0))
    assert plain(agent.state_dict())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_envs", 0),
        ("gamma", 1.5),
        ("loss", "mae"),
        ("optimizer", "sgd"),
        ("target_update_every_updates", 0),
        ("replay_start_steps", -1),
        ("target_ema", 0.0),
        ("target_ema", 1.1),
        ("max_grad_norm", 0.0),
        ("max_grad_norm", math.nan),
    ],
)
def test_bad_arguments_are_named(key, value):
    with refuses(key, value):
        make_agent(**{key: value})


RUN = RunFacts(1_000, ENV)
FITTING = {
    "batch_size": 32,
    "n_step": 1,
    "num_envs": 8,
    "replay_capacity_steps": 500,
    "replay_start_steps": 100,
    "replay_device": "cpu",
    "epsilon_begin": 1.0,
    "epsilon_end": 0.1,
}


@pytest.mark.parametrize(
    ("changes", "run", "keys"),
    [
        ({}, RUN, []),
        ({"batch_size": 600}, RUN, ["algo.batch_size"]),
        ({"batch_size": 40, "replay_start_steps": 1}, RunFacts(47, ENV), ["algo.batch_size"]),
        ({"batch_size": 40, "replay_start_steps": 1}, RunFacts(48, ENV), []),
        ({"replay_start_steps": 501}, RUN, ["algo.replay_start_steps"]),
        ({}, RunFacts(100, ENV), ["budget.steps"]),
        ({}, RunFacts(101, ENV), []),
        ({"epsilon_begin": 0.05}, RUN, ["algo.epsilon_end"]),
        ({"epsilon_begin": 0.05, "batch_size": 600}, RUN, ["algo.batch_size", "algo.epsilon_end"]),
        # 32 + (1 + 1 + 1) * 8 is the least ring that can always be drawn from.
        (
            {"replay_capacity_steps": 55, "replay_start_steps": 1},
            RUN,
            ["algo.replay_capacity_steps"],
        ),
        ({"replay_capacity_steps": 56, "replay_start_steps": 1}, RUN, []),
    ],
)
def test_arguments_that_do_not_fit_each_other_or_the_run_are_problems(changes, run, keys):
    assert [problem.key for problem in DQN.problems(FITTING | changes, run)] == keys


def test_a_replay_that_does_not_fit_the_memory_is_a_problem_here_and_not_elsewhere():
    needed = DQN.memory_bytes(FITTING, ENV)
    assert needed == 504 * (FEATURES * 4 + 8)  # whole rows; 1 byte per flag or age, 4 per reward
    for free, keys in ((needed, ["algo.replay_capacity_steps"]), (2 * needed, [])):
        run = RunFacts(1_000, ENV, {"cpu": free, "device": 0})
        assert [problem.key for problem in DQN.problems(FITTING, run)] == keys


def test_parameter_copies_count_what_training_keeps_of_each_parameter():
    agent = make_agent()
    agent.update(make_batch(0))
    own, target = agent.network.parameters(), agent.target_network.parameters()
    moments = [t for state in agent.optimizer.state.values() for t in state.values() if t.ndim]
    kept = [*own, *target, *moments, *(p.grad for p in agent.network.parameters())]
    numbers = sum(p.numel() for p in agent.network.parameters())
    assert sum(tensor.numel() for tensor in kept) == DQN.parameter_copies * numbers


def test_updates_made_are_those_that_learning_makes():
    made = {"replay_start_steps": 100, "learn_every_steps": 7}
    assert [DQN.updates_made(made, steps) for steps in (50, 106, 107, 800)] == [0, 0, 1, 100]


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
def test_the_fused_optimizer_differs_from_the_plain_one_by_rounding_alone(optimizer):
    cfg = config.compose(["env=cartpole", "algo=braincog", f"algo.optimizer={optimizer}"])
    ours, plain = (build.build_agent(cfg, EnvSpec((4,), 2, dtype=torch.float32)) for _ in range(2))
    (group,) = plain.optimizer.param_groups
    assert group["fused"]
    group["fused"] = False
    start = [p.detach().clone() for p in ours.network.parameters()]
    generator = torch.Generator().manual_seed(0)
    pairs = list(zip(ours.network.parameters(), plain.network.parameters(), strict=True))
    for _ in range(20):
        for one, other in pairs:
            # In the order of its parameter in memory, as autograd hands it over.
            one.grad = torch.empty_like(one).normal_(generator=generator)
            other.grad = one.grad.clone()
        ours.optimizer.step()
        plain.optimizer.step()
    assert not any(torch.equal(one, old) for (one, _), old in zip(pairs, start, strict=True))
    assert all(torch.allclose(one, other, rtol=0, atol=1e-6) for one, other in pairs)
