"""MinAtar's vector environment against the games themselves."""

import minatar
import numpy as np
import pytest

from sdqn_lab.envs.base import environment_seeds
from sdqn_lab.envs.minatar import GAMES, MinAtar
from tests.refusals import refuses

CHANNELS = {"asterix": 4, "breakout": 4, "freeway": 7, "seaquest": 10, "space_invaders": 6}


def plain(game, seed, rules):
    environment = minatar.Environment(game, rules.sticky_actions, rules.difficulty_ramping)
    environment.seed(seed)
    environment.reset()
    return environment


def channels_first(environment):
    return np.moveaxis(environment.state(), 2, 0).astype(np.uint8)


@pytest.mark.parametrize("game", GAMES)
@pytest.mark.parametrize(
    "changes", [{}, {"sticky_actions": 0.5, "difficulty_ramping": False}], ids=["paper", "other"]
)
def test_step_by_step_equal_to_the_plain_game(game, changes, protocol):
    rules = protocol("minatar", **changes)
    env = MinAtar(game, 2, rules)
    copies = [plain(game, seed, rules) for seed in environment_seeds(9, 2)]
    assert np.array_equal(env.reset(9), [channels_first(copy) for copy in copies])
    over = np.zeros(2, bool)
    steps = 2600 if game == "freeway" else 900
    ended = rewarded = 0
    # Going up half of the time lets Freeway's chicken arrive.
    likely = [0.1, 0.1, 0.5, 0.1, 0.1, 0.1] if game == "freeway" else None
    for actions in np.random.default_rng(1).choice(6, size=(steps, 2), p=likely):
        step = env.step(actions)
        for row, copy in enumerate(copies):
            reward, terminal = (copy.reset() or 0, False) if over[row] else copy.act(actions[row])
            assert step.rewards[row] == reward
            assert step.terminated[row] == terminal
            assert np.array_equal(step.observations[row], channels_first(copy))
            rewarded += reward > 0
        assert np.array_equal(step.started, over)
        assert not (step.truncated | step.life_lost).any()
        over = step.terminated
        ended += over.sum()
    assert ended > 0
    assert rewarded > 0


@pytest.mark.parametrize("game", GAMES)
def test_observations_are_binary_channels_of_ten_by_ten(game, protocol):
    env = MinAtar(game, 3, protocol("minatar"))
    assert env.observation_shape == (CHANNELS[game], 10, 10)
    assert env.observation_dtype == np.uint8
    assert set(np.unique(env.reset(0))) == {0, 1}


@pytest.mark.parametrize("game", GAMES)
def test_the_full_action_space_has_six_actions_and_the_other_the_games_own(game, protocol):
    assert MinAtar(game, 1, protocol("minatar")).num_actions == 6
    minimal = MinAtar(game, 1, protocol("minatar", full_action_space=False))
    assert minimal.num_actions == len(minatar.Environment(game).minimal_action_set())


def test_minimal_actions_are_the_games_own_in_its_order(protocol):
    rules = protocol("minatar", full_action_space=False, sticky_actions=0.0)
    env = MinAtar("breakout", 1, rules)
    copy = plain("breakout", environment_seeds(2, 1)[0], rules)
    env.reset(2)
    for action in (1, 2, 0, 1, 1, 2):
        copy.act(copy.minimal_action_set()[action])
        observations = env.step(np.array([action])).observations
        assert np.array_equal(observations[0], channels_first(copy))


def test_an_unknown_game_is_refused_with_the_choices(protocol):
    with refuses("id", "pong", "env=minatar_breakout"):
        MinAtar("pong", 1, protocol("minatar"))
