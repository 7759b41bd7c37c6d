"""What the trainer counts, what it lets into learning, and what it keeps apart."""

import numpy as np
import pytest

from sdqn_lab.agents.seeding import stream_seed
from sdqn_lab.envs.base import Step
from sdqn_lab.training.collector import Collector
from sdqn_lab.training.evaluation import Start, evaluate
from sdqn_lab.training.trainer import StopRequested
from tests.training.toys import chain, toy_config, toy_trainer

SHORT = ["budget.steps=400", "algo.iteration_steps=200", "budget.log_every_steps=100"]


class Scripted:
    """Two environments that replay a script; actions are ignored."""

    num_envs, stack, num_actions, frames_per_step = 2, 1, 2, 4
    observation_shape = (3,)
    observation_dtype = np.dtype(np.float32)

    def __init__(self, rows):
        self._rows, self.at = rows, 0

    def reset(self, seed):
        self.at = 0
        return np.zeros((2, 3), np.float32)

    def step(self, actions):
        rewards, terminated, truncated, life_lost, started = self._rows[self.at % len(self._rows)]
        self.at += 1
        return Step(
            np.full((2, 3), self.at, np.float32),
            np.array(rewards, np.float32),
            *(np.array(flags, bool) for flags in (terminated, truncated, life_lost, started)),
        )

    def close(self):
        pass


NO = (False, False)


def scripted(rows, *, clipping=False, life_loss=False):
    collector = Collector(
        Scripted(rows), reward_clipping=clipping, life_loss_ends_bootstrap=life_loss
    )
    collector.start(0)
    return collector


ACTIONS = np.zeros(2, np.int64)


def test_rows_that_only_start_a_new_episode_are_no_agent_steps():
    rows = [((1, 1), (True, False), NO, NO, NO), ((0, 1), NO, NO, NO, (True, False))]
    cfg = toy_config("algo.num_envs=2", "protocol.eval_episodes=2", *SHORT)
    steps = []
    trainer, _ = toy_trainer(
        cfg, lambda n, protocol: Scripted(rows), stop_requested=lambda: len(steps) == 4
    )
    trainer.agent.learn = lambda step: steps.append(step) or ()
    with pytest.raises(StopRequested):
        trainer.run()
    assert steps == [2, 3, 5, 6]
    assert trainer.agent.memory.transitions == 6


def test_returns_are_unclipped_while_learning_sees_the_sign():
    rows = [((7, -3), NO, NO, NO, NO), ((2, 0), (True, True), NO, NO, NO)]
    collector = scripted(rows, clipping=True)
    first, _ = collector.step(ACTIONS)
    second, episodes = collector.step(ACTIONS)
    assert [episode.score for episode in episodes] == [9.0, -3.0]
    assert [episode.length_steps for episode in episodes] == [2, 2]
    assert [first.rewards.tolist(), second.rewards.tolist()] == [[1, -1], [1, 0]]


def test_a_row_holds_what_was_acted_on_not_what_followed():
    collector = scripted([((1, 1), NO, NO, NO, NO)])
    rows = [collector.step(ACTIONS)[0] for _ in range(3)]
    assert [row.observations[0, 0] for row in rows] == [0, 1, 2]
    assert collector.observations[0, 0] == 3


def test_a_truncated_episode_counts_but_keeps_its_bootstrap():
    row, episodes = scripted([((1, 1), NO, (True, False), NO, NO)]).step(ACTIONS)
    assert len(episodes) == 1
    assert not row.terminal.any()


@pytest.mark.parametrize("ends", [True, False])
def test_a_lost_life_ends_the_bootstrap_where_the_protocol_says_so_and_never_the_game(ends):
    rows = [((1, 1), NO, NO, (True, False), NO)]
    row, episodes = scripted(rows, life_loss=ends).step(ACTIONS)
    assert episodes == []
    assert row.terminal.tolist() == [ends, False]


@pytest.mark.parametrize(("period", "start"), [(3, 64), (7, 100)])
def test_updates_follow_the_count_of_agent_steps(period, start):
    overrides = [f"algo.learn_every_steps={period}", f"algo.replay_start_steps={start}"]
    trainer, _ = toy_trainer(toy_config(*SHORT, *overrides))
    trainer.run()
    counters = trainer.counters
    assert counters.updates == (counters.steps - start) // period
    assert counters.updates == trainer.agent.updates


def test_the_agent_answers_for_the_gradients_of_its_layers():
    trainer, tape = toy_trainer(toy_config(*SHORT))
    trainer.agent.gradient_norms = lambda: {"anything": float(trainer.agent.updates)}
    trainer.run()
    updates = [record["updates"] for record in tape.records if "updates" in record]
    means = [r["grad/norm/anything"] for r in tape.records if "grad/norm/anything" in r]
    assert means == [(a + 1 + b) / 2 for a, b in zip([0, *updates], updates, strict=False) if b > a]


def test_evaluation_leaves_no_trace_in_training():
    """Twice the evaluation episodes, and every training number stays."""

    def training_numbers(episodes):
        cfg = toy_config(*SHORT, f"protocol.eval_episodes={episodes}", "norm=batchnorm")
        trainer, tape = toy_trainer(cfg)
        trainer.run()
        return [record for record in tape.records if "epsilon" in record]

    assert training_numbers(2) == training_numbers(5)


def test_logging_leaves_no_trace_in_training():
    """A statistics pass draws from replay and from the encoder; learning must not notice."""

    def last_weights(period):
        cfg = toy_config(*SHORT[:2], f"budget.log_every_steps={period}")
        trainer, _ = toy_trainer(cfg)
        trainer.run()
        return {k: v.tolist() for k, v in trainer.agent.network.state_dict().items()}

    assert last_weights(50) == last_weights(150)


@pytest.mark.parametrize(("steps", "log_every_steps"), [(80, 40), (120, 20)])
def test_episodes_cut_by_an_iterations_end_leave_no_return(steps, log_every_steps):
    """Four environments with episodes of 16 steps, cut after 10."""
    overrides = [f"budget.steps={steps}", f"budget.log_every_steps={log_every_steps}"]
    trainer, tape = toy_trainer(toy_config(*overrides, "algo.iteration_steps=40"))
    trainer.run()
    assert trainer.counters.episodes == 0
    assert not any("train/return" in record for record in tape.records)
    assert not any("train/length_steps" in record for record in tape.records)


def test_every_evaluation_plays_one_episode_in_each_copy():
    cfg = toy_config(*SHORT, "protocol.eval_episodes=3", "protocol.episode_cap_frames=30")
    trainer, tape = toy_trainer(cfg, chain)
    trainer.run()
    played = [r for r in tape.records if "eval/returns" in r]
    assert len(played) == 2
    for record in played:
        assert len(record["eval/returns"]) == 3
        assert record["eval/return_mean"] == np.mean(record["eval/returns"])
        assert record["eval/return_std"] == np.std(record["eval/returns"])


def test_an_evaluation_repeats_itself_and_another_index_differs():
    cfg = toy_config(*SHORT)
    trainer, _ = toy_trainer(cfg)
    env = trainer._eval_env

    agent = trainer.agent
    policy = agent.policy(agent.network, agent.env.num_actions, epsilon=0.5)

    def played(index):
        return evaluate(policy, env, Start(0, index))

    assert played(0) == played(0)
    assert played(0) != played(1)


def test_each_iteration_starts_its_environments_from_a_seed_of_its_own():
    trainer, _ = toy_trainer(toy_config("budget.steps=120", "algo.iteration_steps=40", "seed=5"))
    seeds, env = [], trainer.collector._env
    reset = env.reset
    env.reset = lambda seed: seeds.append(seed) or reset(seed)
    trainer.run()
    assert seeds == [stream_seed(5, "env", iteration) for iteration in range(3)]


def test_evaluations_follow_each_iteration_and_nothing_ends_a_run_early():
    """Every episode of this game has the same return, so no evaluation is better than the first."""
    overrides = ["budget.steps=300", "algo.iteration_steps=100", "budget.log_every_steps=50"]
    trainer, tape = toy_trainer(toy_config(*overrides))
    trainer.run()
    assert [r["step"] for r in tape.records if "eval/return_mean" in r] == [100, 200, 300]
    assert "eval/return_mean" not in tape.records[0]
