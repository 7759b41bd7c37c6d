"""Every neuron and norm, and the ANN baseline, reach a known optimum."""

import pytest

from sdqn_lab import config
from tests.training.toys import chain, toy_config, toy_trainer

BUDGET = ["budget.steps=1200", "algo.iteration_steps=1200", "algo.epsilon_decay_steps=500"]
IDENTITY_OPTIMUM = 16.0
"""One reward per step, sixteen steps per episode."""


# Each neuron, and under each norm one that spikes and one that does not: a norm knows no neuron.
PAIRS = [(norm, neuron) for norm in ("none", "popnorm", "batchnorm") for neuron in ("lif", "relu")]
PAIRS += [("popnorm", "if"), ("none", "plif"), ("popnorm", "alif")]
# On the general path, where a step takes several times as long.
LONG = [*(("batchnorm", neuron) for neuron in ("lif", "relu")), *PAIRS[-2:]]


@pytest.mark.parametrize(
    ("norm", "neuron"),
    [pytest.param(*pair, marks=[pytest.mark.slow] if pair in LONG else []) for pair in PAIRS],
)
def test_names_the_state_it_sees(norm, neuron):
    overrides = [f"neuron={neuron}", f"norm={norm}", "network.normalize_hidden=true"]
    cfg = toy_config("algo.gamma=0.5", "algo.learning_rate=2e-3", *BUDGET, *overrides)
    trainer, tape = toy_trainer(cfg)
    trainer.run()
    assert tape.evaluations()[-1] >= 0.9 * IDENTITY_OPTIMUM


@pytest.mark.parametrize(
    ("algo", "n_step"), [("dqn", 1), ("dqn", 3), ("double_dqn", 1), ("qr_dqn", 3)]
)
def test_walks_to_the_far_end_of_a_chain(algo, n_step):
    arguments = [f"algo={algo}", f"algo.n_step={n_step}", "neuron=relu", "norm=none"]
    arguments += ["budget.steps=2400", "algo.iteration_steps=2400", "protocol.epsilon_eval=0"]
    cfg = toy_config(*arguments, "protocol.episode_cap_frames=100")
    trainer, tape = toy_trainer(cfg, chain)
    trainer.run()
    last = tape.records[-1]
    assert last["eval/return_mean"] == 1.0
    assert last["eval/length_steps_mean"] == 4.0


@pytest.mark.parametrize("experiment", ["qr_dqn", "pl_qr_dqn"])
def test_qr_dqn_names_the_state_it_sees(experiment):
    overrides = [f"experiment={experiment}", "network.normalize_hidden=true", "algo.gamma=0.5"]
    trainer, tape = toy_trainer(toy_config("algo.learning_rate=2e-3", *BUDGET, *overrides))
    trainer.run()
    assert tape.evaluations()[-1] >= 0.9 * IDENTITY_OPTIMUM


def pqn_config(*overrides):
    return config.compose(
        [
            *("env=cartpole", "network.hidden=64", "time_window=4", "protocol.eval_episodes=4"),
            *("algo.rollout_steps=16", "algo.learning_rate=4e-3", "algo.reward_scale=1"),
            *("algo.epsilon_decay_steps=800", "budget.steps=2400", "algo.iteration_steps=2400"),
            *overrides,
        ]
    )


@pytest.mark.parametrize("experiment", ["pqn", "pl_pqn"])
def test_pqn_names_the_state_it_sees(experiment):
    cfg = pqn_config(f"experiment={experiment}", "algo.gamma=0.5")
    trainer, tape = toy_trainer(cfg)
    trainer.run()
    assert tape.evaluations()[-1] >= 0.9 * IDENTITY_OPTIMUM


def test_pqn_walks_to_the_far_end_of_a_chain():
    far = ["protocol.epsilon_eval=0", "protocol.episode_cap_frames=100"]
    trainer, tape = toy_trainer(pqn_config("experiment=pqn", *far), chain)
    trainer.run()
    last = tape.records[-1]
    assert last["eval/return_mean"] == 1.0
    assert last["eval/length_steps_mean"] == 4.0


POLICIES = {
    "ppo": ["algo.rollout_steps=32", "algo.learning_rate=4e-3", "algo.minibatches=2"],
    "a2c": ["algo.learning_rate=4e-3", "algo.reward_scale=1"],
    "reinforce": ["algo.num_envs=4", "algo.rollout_steps=16", "algo.learning_rate=1e-2"],
}


@pytest.mark.parametrize(
    ("arm", "algo", "way"),
    [
        # A trunk is shared or not in the same code for both algorithms.
        ("", "ppo", "algo.shared_trunk=true"),
        pytest.param("pl_", "ppo", "algo.shared_trunk=false", marks=pytest.mark.slow),
        pytest.param("", "a2c", "algo.shared_trunk=false", marks=pytest.mark.slow),
        ("pl_", "a2c", "algo.shared_trunk=true"),
        pytest.param("", "reinforce", "algo.normalize_returns=true", marks=pytest.mark.slow),
        ("pl_", "reinforce", "algo.normalize_returns=true"),
    ],
)
def test_a_policy_names_the_state_it_sees(arm, algo, way):
    overrides = ["env=cartpole", f"experiment={arm}{algo}", "network.hidden=64", "time_window=4"]
    overrides += ["budget.steps=4000", "algo.iteration_steps=4000", "protocol.eval_episodes=4"]
    overrides += [*POLICIES[algo], way, "algo.gamma=0.5"]
    trainer, tape = toy_trainer(config.compose(overrides))
    trainer.run()
    # Actions are drawn in evaluation too.
    assert tape.evaluations()[-1] >= 0.85 * IDENTITY_OPTIMUM


def test_a_dead_network_learns_nothing():
    overrides = ["surrogate=quadratic_gate", "norm=none", "neuron.v_threshold=50"]
    cfg = toy_config("algo.gamma=0.5", *BUDGET, *overrides)
    trainer, tape = toy_trainer(cfg)
    trainer.run()
    assert tape.evaluations()[-1] <= 0.6 * IDENTITY_OPTIMUM
