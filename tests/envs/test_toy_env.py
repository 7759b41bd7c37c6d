"""The toy environments have the optimum that their docstrings state."""

import numpy as np
import pytest

from tests.toy_envs import Chain, Identity


@pytest.mark.parametrize("image", [False, True])
def test_naming_the_state_is_rewarded_and_nothing_else(image, protocol):
    env = Identity(5, 4, protocol("plain"), image=image)
    observations = env.reset(0)
    rng = np.random.default_rng(0)
    for _ in range(40):
        states = observations.reshape(4, -1, 5)[:, 0].argmax(1)
        actions = np.where(rng.random(4) < 0.5, states, rng.integers(5, size=4))
        step = env.step(actions)
        expected = (actions == states) & ~step.started
        assert step.rewards.tolist() == expected.astype(float).tolist()
        observations = step.observations


def test_identity_shows_the_state_as_a_lit_column(protocol):
    env = Identity(3, 8, protocol("plain"), image=True)
    pictures = env.reset(0)
    assert pictures.shape == (8, 1, 3, 3)
    assert (pictures.sum(axis=(1, 2)).max(axis=1) == 3).all()
    assert (pictures.sum(axis=(1, 2, 3)) == 3).all()


def test_identity_draws_every_state(protocol):
    assert set(Identity(4, 64, protocol("plain")).reset(0).argmax(1)) == {0, 1, 2, 3}


def test_identity_is_truncated_at_its_length_and_never_terminated(protocol):
    env = Identity(3, 2, protocol("plain"), episode_steps=5)
    env.reset(0)
    steps = [env.step(np.zeros(2, int)) for _ in range(12)]
    assert [bool(step.truncated[0]) for step in steps] == [k in (4, 10) for k in range(12)]
    assert not any(step.terminated.any() for step in steps)


def test_chain_walks_and_ends_at_the_right(protocol):
    env = Chain(4, 1, protocol("plain"))
    env.reset(0)
    walked = [env.step(np.array([action])) for action in (0, 1, 0, 1, 1, 1)]
    assert [int(step.observations.argmax()) for step in walked] == [0, 1, 0, 1, 2, 3]
    assert [float(step.rewards[0]) for step in walked] == [0, 0, 0, 0, 0, 1]
    assert [bool(step.terminated[0]) for step in walked] == [False] * 5 + [True]


def test_the_stated_values_of_chain_solve_the_bellman_equation(protocol):
    gamma, length = 0.9, 5

    def value(state):
        return gamma ** (length - 2 - state)

    for state in range(length - 1):
        env = Chain(length, 1, protocol("plain"))
        for action, stated in ((1, value(state)), (0, gamma * value(max(state - 1, 0)))):
            env.reset(0)
            for _ in range(state):
                env.step(np.ones(1, int))
            step = env.step(np.array([action]))
            future = 0.0 if step.terminated[0] else value(int(step.observations.argmax()))
            assert step.rewards[0] + gamma * future == pytest.approx(stated)
