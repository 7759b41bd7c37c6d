"""The bandit and the gridworld, calculated by hand."""

import gymnasium
import numpy as np
import pytest

from sdqn_lab.envs.classic import Classic
from sdqn_lab.envs.tasks import GOAL, PIXELS, Bandit, Gridworld


def at(game, state):
    game.reset(seed=0)
    game.state = state
    return game


@pytest.mark.parametrize(("context", "right"), [(0, 1), (1, 2), (2, 3), (3, 0)])
def test_one_action_of_the_bandit_earns_in_each_context(context, right):
    for action in range(4):
        seen, reward, terminated, truncated, _ = at(Bandit(), context).step(action)
        assert reward == float(action == right)
        assert (terminated, truncated) == (True, False)
        assert seen.tolist() == [float(i == context) for i in range(4)]


@pytest.mark.parametrize(
    ("cell", "action", "arrives", "reward"),
    [
        (12, 0, 7, -0.02), (12, 1, 13, -0.02), (12, 2, 17, -0.02), (12, 3, 11, -0.02),
        (0, 0, 0, -0.02), (0, 3, 0, -0.02), (4, 1, 4, -0.02), (20, 2, 20, -0.02),
        (19, 2, 24, 1.0), (23, 1, 24, 1.0), (9, 1, 9, -0.02),
    ],
)  # fmt: skip
def test_moves_walls_and_the_goal_of_the_gridworld(cell, action, arrives, reward):
    seen, earned, terminated, truncated, _ = at(Gridworld(), cell).step(action)
    assert seen.argmax() == arrives
    assert seen.sum() == 1
    assert (earned, terminated, truncated) == (reward, arrives == 24, False)


def test_every_start_is_about_equally_likely_and_none_is_the_goal():
    for game, states in ((Bandit(), 4), (Gridworld(), 24)):
        game.reset(seed=0)
        counts = np.bincount([game.reset()[0].argmax() for _ in range(4_800)], minlength=states)
        assert len(counts) == states
        assert counts == pytest.approx([4_800 / states] * states, abs=5 * (4_800 / states) ** 0.5)


def test_the_best_return_of_the_gridworld_is_as_stated():
    returns = []
    for start in range(24):
        game, total, over = at(Gridworld(), start), 0.0, False
        while not over:
            _, reward, over, _, _ = game.step(1 if game.state % 5 < 4 else 2)
            total += reward
        returns.append(total)
    assert (
        np.mean(returns) == pytest.approx(1 - 0.02 * (25 / 6 - 1)) == pytest.approx(0.937, abs=1e-3)
    )


def test_gymnasium_knows_both_and_ends_a_walk_after_fifty_steps(protocol):
    env = Classic("Gridworld-v0", 1, protocol("plain"))
    assert env.action_names == ("up", "right", "down", "left")
    env.reset(1)
    ends = [env.step(np.array([0])).truncated[0] for _ in range(50)]
    assert ends == [False] * 49 + [True]
    assert gymnasium.make("Bandit-v0").spec.max_episode_steps is None


def test_pictures_show_the_room():
    env = gymnasium.make("Gridworld-v0", render_mode="rgb_array")
    env.reset(seed=0)
    picture = env.render()
    assert picture.shape == (5 * PIXELS, 5 * PIXELS, 3)
    assert tuple(picture[-5, -5]) == GOAL
    assert at(Bandit(), 2).render().shape == (PIXELS, 4 * PIXELS, 3)
