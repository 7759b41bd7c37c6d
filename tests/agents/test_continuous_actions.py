"""Continuous actions: draws, means and bounds; what is kept of them; resume in a rollout."""

import io
from math import log

import numpy as np
import pytest
import torch
from torch import nn

from sdqn_lab.agents.a2c import A2C
from sdqn_lab.agents.base import EnvSpec, Row
from sdqn_lab.agents.policy import Gaussian, Mean
from sdqn_lab.agents.ppo import PPO
from sdqn_lab.agents.reinforce import REINFORCE
from sdqn_lab.agents.rollout import Rollout
from sdqn_lab.envs.base import ActionBox, check_box_actions, random_actions
from sdqn_lab.training.checkpoint import pack, unpack
from tests.agents.test_policy_gradients import play
from tests.refusals import refuses

D = 2
BOX = ActionBox((-1.0, -0.5), (1.0, 4.0))
ENV = EnvSpec((3,), D, dtype=torch.float32, action_box=BOX)
ALGORITHMS = {"reinforce": REINFORCE, "a2c": A2C, "ppo": PPO}
each_algorithm = pytest.mark.parametrize("name", ALGORITHMS)


class Answering(nn.Module):
    """Means that are a map of the observation, deviations that are a parameter, and a value."""

    def __init__(self, heads=1, seed=0):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.mean, self.value = nn.Linear(3, D), nn.Linear(3, 1)
        self.log_std, self.heads = nn.Parameter(torch.zeros(D)), heads

    def forward(self, observations, *, time_window=None, generator=None):
        mean = self.mean(observations)
        policy = torch.cat([mean, self.log_std.expand_as(mean)], dim=1)
        return {"policy": policy, "value": self.value(observations)} if self.heads == 2 else policy


def made(name, seed=0, **settings):
    network = Answering(1 if name == "reinforce" else 2, seed)
    return ALGORITHMS[name](network, ENV, seed=seed, num_envs=2, rollout_steps=8, **settings)


def outputs_of(mean, deviations, count=1):
    return torch.tensor([[*mean, *map(log, deviations)]]).expand(count, -1)


# Acting


def test_draws_have_the_mean_and_the_deviations_that_the_network_answers():
    policy = Gaussian(Answering(), BOX)
    drawn = policy.choose(outputs_of((0.5, 3.0), (1.0, 0.1), 20_000), np.random.default_rng(0))
    assert drawn.shape == (20_000, D)
    assert drawn.dtype == np.float32
    assert drawn.mean(0) == pytest.approx([0.5, 3.0], abs=0.03)
    assert drawn.std(0) == pytest.approx([1.0, 0.1], rel=0.03)


def test_numbers_of_one_action_are_drawn_independently_and_not_clipped():
    drawn = Gaussian(Answering(), BOX).choose(
        outputs_of((0.0, 0.0), (2.0, 2.0), 20_000), np.random.default_rng(1)
    )
    assert abs(np.corrcoef(drawn.T)[0, 1]) < 0.03
    assert (np.abs(drawn[:, 0]) > 1.0).mean() == pytest.approx(0.617, abs=0.02)  # P(|N| > 1/2)


def test_evaluation_takes_the_mean_clipped_to_its_bounds_and_draws_nothing():
    policy = PPO.policy(Answering(), BOX)
    assert type(policy) is Mean
    rng = np.random.default_rng(0)
    before = rng.bit_generator.state
    outputs = torch.tensor([[0.25, 0.5, 0.0, 0.0], [-3.0, 9.0, 0.0, 0.0]])
    assert policy.choose(outputs, rng).tolist() == [[0.25, 0.5], [-1.0, 4.0]]
    assert rng.bit_generator.state == before
    assert policy.values(outputs).tolist() == [[0.25, 0.5], [-3.0, 9.0]]


def test_with_epsilon_whole_actions_are_random_ones_of_the_box():
    policy = PPO.policy(Answering(2), BOX, epsilon=0.5)
    seen = np.zeros((4_000, 3), np.float32)
    choice = policy.act(seen, np.random.default_rng(0))
    mean = BOX.clip(policy.network(torch.zeros(1, 3))["policy"][:, :D].detach().numpy())
    assert choice.explored.mean() == pytest.approx(0.5, abs=0.03)
    assert (choice.actions == mean).all(1).tolist() == (~choice.explored).tolist()
    random = choice.actions[choice.explored]
    assert random.min(0) == pytest.approx(BOX.low, abs=0.02)
    assert random.max(0) == pytest.approx(BOX.high, abs=0.02)


def test_random_actions_without_a_bound_are_normal_within_what_bounds_there_are():
    box = ActionBox((-np.inf, 0.0, -1.0), (np.inf, np.inf, 1.0))
    drawn = random_actions(box, 10_000, np.random.default_rng(0))
    assert np.isfinite(drawn).all()
    assert drawn.std(0) == pytest.approx([1.0, 0.58, 0.58], abs=0.03)
    assert drawn[:, 1].min() == 0.0


@pytest.mark.parametrize("bounds", [((), ()), ((0.0,), (1.0, 2.0)), ((1.0,), (0.0,))])
def test_bounds_that_hold_nothing_between_them_are_refused(bounds):
    with refuses("high", bounds[1]):
        ActionBox(*bounds)


def test_what_a_network_answers_that_has_diverged_is_refused_and_not_played():
    with refuses("actions", [[0.0, float("inf")]], rule="finite"):
        check_box_actions(np.array([[0.0, np.inf]]), 1, BOX)
    with refuses("actions", (1, 3), rule="(1, 2)"):
        check_box_actions(np.zeros((1, 3)), 1, BOX)


# Learning


@each_algorithm
def test_what_is_learned_from_is_the_action_as_it_was_drawn(name):
    agent = made(name, gamma=0.5)
    agent.network.log_std.data[:] = log(3.0)
    rng, drawn = np.random.default_rng(0), []
    for _ in range(9):
        seen = rng.standard_normal((2, 3)).astype(np.float32)
        decision = agent.act(seen, 0)
        drawn.append(decision.actions)
        ends = np.ones(2, bool)
        agent.observe(Row(seen, decision.actions, np.ones(2), ends, ends), decision.extras)
    lesson = agent.lesson()
    assert torch.equal(
        lesson["actions"], torch.from_numpy(np.concatenate(drawn)[: len(lesson["actions"])])
    )
    assert (lesson["actions"].abs() > 4.0).any()  # beyond both bounds
    if name != "reinforce":
        outputs = agent.network(lesson["observations"])["policy"].detach()
        normal = torch.distributions.Normal(outputs[:, :D], 3.0)
        expected = normal.log_prob(lesson["actions"]).sum(1)
        torch.testing.assert_close(lesson["log_prob"], expected)


@each_algorithm
@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_a_step_moves_the_mean_toward_what_was_better_than_expected(name, advantage):
    own = "normalize_returns" if name == "reinforce" else "normalize_advantages"
    agent = made(name, learning_rate=1e-2, **{own: False})
    seen = torch.from_numpy(np.random.default_rng(0).standard_normal((32, 3))).float()

    def mean():
        outputs = agent.network(seen)
        return (outputs if name == "reinforce" else outputs["policy"])[:, 0].mean().item()

    before, actions = mean(), torch.full((32, D), 3.0)
    outputs = agent.network(seen)
    log_prob, _ = agent.judged(outputs if name == "reinforce" else outputs["policy"], actions)
    numbers = {"advantage": advantage, "return": advantage, "value": 0.0}
    batch = {key: torch.full((32,), number) for key, number in numbers.items()}
    batch |= {"observations": seen, "actions": actions, "log_prob": log_prob.detach()}
    agent.update(batch)
    assert (mean() - before) * advantage > 1e-3


@each_algorithm
def test_entropy_in_the_loss_widens_the_distribution(name):
    agent = made(name, entropy_coef=1.0)
    zeros = torch.zeros(4)
    batch = {key: zeros for key in ("advantage", "return", "value", "log_prob")}
    agent.update(batch | {"observations": torch.zeros(4, 3), "actions": torch.zeros(4, D)})
    assert (agent.network.log_std > 0).all()


# Exact continuation


def test_a_rollout_closes_with_a_row_in_the_form_of_its_actions():
    rollout, seen = Rollout(2), np.zeros((2, 3), np.float32)
    actions, yes = np.ones((2, D), np.float32), np.ones(2, bool)
    rollout.append(Row(seen, actions, np.zeros(2), ~yes, yes), {})
    rollout.close(seen, {})
    rollout.append(Row(seen, actions, np.zeros(2), ~yes, yes), {})
    columns = rollout.columns()
    assert columns["actions"].dtype == np.float32
    assert columns["actions"].tolist() == [[[1, 1]] * 2, [[0, 0]] * 2, [[1, 1]] * 2]


@each_algorithm
def test_a_state_loaded_in_the_middle_of_a_rollout_continues_bit_for_bit(name):
    agent, other = made(name, seed=0), made(name, seed=5)
    play(agent, 20, seed=1)
    assert agent.updates > 0
    written = io.BytesIO()
    torch.save(pack(agent.state_dict()), written)
    written.seek(0)
    other.load_state_dict(unpack(torch.load(written, weights_only=True)))
    assert play(agent, 30, seed=2) == play(other, 30, seed=2) != []
    assert torch.equal(agent.network.log_std, other.network.log_std)
    assert not torch.equal(agent.network.log_std, torch.zeros(D))


def test_memory_counts_four_bytes_for_each_number_of_an_action():
    arguments = {"rollout_steps": 16, "num_envs": 8, "iteration_steps": 500}
    assert PPO.memory_bytes(arguments, ENV) == 2 * 18 * 8 * (12 + 8 + 4 + 1 + 1 + 4 + 4)
    assert REINFORCE.memory_bytes(arguments, ENV) == 2 * 500 * (12 + 8 + 4 + 1 + 1 + 1)
