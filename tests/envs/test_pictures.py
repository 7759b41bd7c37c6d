"""What a person sees of a game, and that looking changes nothing."""

import gymnasium
import numpy as np
import pytest

from sdqn_lab.envs import minatar
from sdqn_lab.envs.atari import Atari
from sdqn_lab.envs.base import Watchable
from sdqn_lab.envs.classic import Classic
from sdqn_lab.envs.minatar import GAMES, MinAtar
from tests.envs.test_every_env import drawn_actions, play, same
from tests.refusals import refuses
from tests.toy_envs import Chain, Identity

STEPS = 120


class Drawn(gymnasium.Env):
    """A walk whose picture is as bright as its place; where it starts is a matter of the seed."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 25}  # noqa: RUF012
    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,))
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = int(self.np_random.integers(100))
        return np.array([self.place], np.float32), {}

    def step(self, action):
        self.place += 1 + int(action)
        return np.array([self.place], np.float32), 1.0, self.place > 120, False, {}

    def render(self):
        return np.full((6, 8, 3), self.place, np.uint8)


class Seen(Drawn):
    """The same, observed as an image in colours."""

    observation_space = gymnasium.spaces.Box(0, 255, (6, 8, 3), np.uint8)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.render(), {}

    def step(self, action):
        _, *rest = super().step(action)
        return self.render(), *rest


@pytest.fixture(autouse=True)
def registered():
    gymnasium.register("Drawn-v0", Drawn)
    gymnasium.register("Seen-v0", Seen)
    yield
    del gymnasium.registry["Drawn-v0"], gymnasium.registry["Seen-v0"]


KINDS = {
    "atari": lambda p: Atari("breakout", 2, p("machado", episode_cap_frames=160)),
    "minatar": lambda p: MinAtar("seaquest", 2, p("minatar")),
    "drawn": lambda p: Classic("Drawn-v0", 2, p("plain")),
    "seen": lambda p: Classic("Seen-v0", 2, p("plain")),
    "identity": lambda p: Identity(4, 2, p("plain")),
    "identity_image": lambda p: Identity(4, 2, p("plain"), image=True),
    "chain": lambda p: Chain(3, 2, p("plain", episode_cap_frames=9)),
}


@pytest.fixture(params=KINDS)
def make(request, protocol):
    return lambda: KINDS[request.param](protocol)


def watched(env, seed, actions):
    """The pictures of a game and what happens meanwhile."""
    steps, pictures = [(env.reset(seed),)], [env.picture()]
    for row in actions:
        steps.append(tuple(env.step(row)))
        pictures.append(env.picture())
    return steps, pictures


def test_every_environment_can_be_watched(make):
    env = make()
    assert isinstance(env, Watchable)
    assert len(env.action_names) == env.num_actions
    assert all(isinstance(name, str) and name for name in env.action_names)
    assert len(set(env.action_names)) == env.num_actions
    assert env.decisions_per_second > 0
    _, pictures = watched(env, 3, drawn_actions(env, 20))
    assert {picture.shape for picture in pictures} == {pictures[0].shape}
    assert pictures[0].ndim == 3
    assert pictures[0].shape[2] == 3
    assert {picture.dtype for picture in pictures} == {np.dtype(np.uint8)}
    assert any((picture != pictures[0]).any() for picture in pictures)
    env.close()


def test_looking_changes_nothing(make):
    env = make()
    actions = drawn_actions(env, STEPS)
    seen, pictures = watched(env, 7, actions)
    assert same(seen, play(make(), 7, actions))
    again, others = watched(env, 7, actions)
    assert same(seen, again)
    assert all(map(np.array_equal, pictures, others))


def test_a_picture_is_never_changed_later(make):
    env = make()
    env.reset(0)
    picture = env.picture()
    kept = picture.copy()
    for row in drawn_actions(env, 10):
        env.step(row)
        env.picture()
    assert np.array_equal(picture, kept)


@pytest.mark.parametrize("kind", ["atari", "drawn"])
def test_a_copy_that_plays_along_cannot_begin_late(kind, protocol):
    env = KINDS[kind](protocol)
    env.reset(0)
    env.step(np.zeros(2, int))
    with pytest.raises(ValueError, match="picture must be asked for first between a reset and"):
        env.picture()
    env.reset(0)
    env.picture()


def test_the_screen_of_an_atari_game_is_what_the_network_sees_in_grey_and_small(protocol):
    cv2 = pytest.importorskip("cv2")
    env = Atari("breakout", 2, protocol("machado", episode_cap_frames=400))
    seen, pictures = watched(env, 11, drawn_actions(env, 250))
    assert sum(step[3][0] or step[2][0] for step in seen[1:]) > 1
    for number, (step, picture) in enumerate(zip(seen, pictures, strict=True)):
        grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
        small = cv2.resize(grey, (84, 84), interpolation=cv2.INTER_AREA)
        assert np.abs(small.astype(int) - step[0][0, -1]).max() <= 1, number


@pytest.mark.parametrize(("game", "height"), [("pong", 210), ("air_raid", 250)])
def test_an_atari_screen_has_its_own_size(game, height, protocol):
    env = Atari(game, 1, protocol("braincog"))
    env.reset(0)
    assert env.picture().shape == (height, 160, 3)


def test_atari_actions_are_named_in_words(protocol):
    assert Atari("breakout", 1, protocol("braincog")).action_names == (
        *("no-op", "fire", "right", "left"),
    )
    full = Atari("breakout", 1, protocol("machado")).action_names
    assert (full[0], full[2], full[14]) == ("no-op", "up", "up right fire")


def test_minatar_actions_are_named_in_words(protocol):
    names = ("no-op", "left", "up", "right", "down", "fire")
    assert MinAtar("breakout", 1, protocol("minatar")).action_names == names
    minimal = protocol("minatar", full_action_space=False)
    assert MinAtar("breakout", 1, minimal).action_names == ("no-op", "left", "right")


def test_actions_without_names_are_numbers(protocol):
    assert Classic("CartPole-v1", 1, protocol("plain")).action_names == ("0", "1")


@pytest.mark.parametrize("game", GAMES)
def test_a_minatar_picture_has_a_colour_where_there_is_something_and_ground_elsewhere(
    game, protocol
):
    env = MinAtar(game, 1, protocol("minatar"))
    seen, pictures = watched(env, 5, drawn_actions(env, 300))
    for step, picture in zip(seen, pictures, strict=True):
        occupied = step[0][0].any(axis=0)
        assert np.array_equal((picture != minatar.GROUND).any(axis=-1), occupied)


def test_the_player_of_a_minatar_game_covers_what_is_below_it(protocol):
    env = MinAtar("breakout", 1, protocol("minatar"))
    first = env.reset(0)
    paddle = first[0, 0].astype(bool)
    assert paddle.sum() == 1
    assert env.picture()[paddle].tolist() == [list(minatar.COLORS["paddle"])]


def test_a_classic_picture_is_what_the_game_draws_at_its_own_speed(protocol):
    env = Classic("Drawn-v0", 2, protocol("plain"))
    seen, pictures = watched(env, 1, drawn_actions(env, STEPS))
    assert env.decisions_per_second == 25
    assert [int(p[0, 0, 0]) for p in pictures] == [int(step[0][0, 0]) for step in seen]
    assert sum(bool(step[2][0]) for step in seen[1:]) > 1


def test_an_image_that_is_observed_is_the_picture(protocol):
    env = Classic("Seen-v0", 2, protocol("plain"))
    seen, pictures = watched(env, 1, drawn_actions(env, 30))
    for step, picture in zip(seen, pictures, strict=True):
        assert np.array_equal(picture.transpose(2, 0, 1), step[0][0])


def test_a_game_that_nobody_can_draw_says_what_is_missing(protocol, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pygame", None)
    env = Classic("CartPole-v1", 1, protocol("plain"))
    env.reset(0)
    with refuses("env.id", "CartPole-v1", "pygame"):
        env.picture()


def test_a_toy_shows_its_state(protocol):
    env = Chain(4, 1, protocol("plain"))
    env.reset(0)
    env.step(np.ones(1, int))
    assert env.picture()[..., 0].tolist() == [[0, 255, 0, 0]]
