"""Promises that every vector environment keeps, whatever its kind."""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest

from sdqn_lab.envs.atari import Atari
from sdqn_lab.envs.base import VectorEnv
from sdqn_lab.envs.classic import Classic
from sdqn_lab.envs.minatar import GAMES, MinAtar
from tests.refusals import refuses
from tests.toy_envs import Chain, Identity

N = 2
Factory = Callable[[], VectorEnv]

KINDS = {
    "atari": lambda p: Atari("breakout", N, p("braincog", sticky_actions=0.25)),
    **{
        f"minatar_{game}": lambda p, game=game: MinAtar(
            game, N, p("minatar", episode_cap_frames=100)
        )
        for game in GAMES
    },
    "cartpole": lambda p: Classic("CartPole-v1", N, p("plain")),
    "bandit": lambda p: Classic("Bandit-v0", N, p("plain")),
    "gridworld": lambda p: Classic("Gridworld-v0", N, p("plain")),
    "acrobot": lambda p: Classic("Acrobot-v1", N, p("plain", episode_cap_frames=90)),
    "identity": lambda p: Identity(4, N, p("plain")),
    "identity_image": lambda p: Identity(4, N, p("plain"), image=True),
    "chain": lambda p: Chain(3, N, p("plain", episode_cap_frames=9)),
}
STEPS = 230


@pytest.fixture(params=KINDS)
def make(request, protocol) -> Factory:
    return lambda: KINDS[request.param](protocol)


def drawn_actions(env: VectorEnv, steps: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(env.num_actions, size=(steps, env.num_envs))


def play(env: VectorEnv, seed: int, actions: np.ndarray) -> list[tuple[np.ndarray, ...]]:
    return [(env.reset(seed),), *(tuple(env.step(row)) for row in actions)]


def same(left: list[tuple[np.ndarray, ...]], right: list[tuple[np.ndarray, ...]]) -> bool:
    return len(left) == len(right) and all(
        np.array_equal(a, b)
        for rows in zip(left, right, strict=True)
        for a, b in zip(*rows, strict=True)
    )


def test_a_reset_of_a_used_environment_equals_a_fresh_one(make):
    used, fresh = make(), make()
    actions = drawn_actions(used, STEPS)
    play(used, 3, drawn_actions(used, 57, seed=1))
    assert same(play(used, 7, actions), play(fresh, 7, actions))


def test_replaying_logged_actions_restores_the_stream_and_it_goes_on_alike(make):
    whole, resumed = make(), make()
    actions = drawn_actions(whole, STEPS)
    replayed = play(resumed, 7, actions[: STEPS // 2])
    replayed += [tuple(resumed.step(row)) for row in actions[STEPS // 2 :]]
    assert same(play(whole, 7, actions), replayed)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "chain"])
def test_another_seed_gives_another_stream(kind, protocol):
    env = KINDS[kind](protocol)
    actions = drawn_actions(env, 60)
    assert not same(play(env, 0, actions), play(env, 1, actions))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "chain"])
def test_the_environments_of_one_vector_differ(kind, protocol):
    env = KINDS[kind](protocol)
    actions = np.repeat(drawn_actions(env, 60)[:, :1], N, axis=1)
    observations = np.stack([step[0] for step in play(env, 0, actions)])
    assert not np.array_equal(observations[:, 0], observations[:, 1])


def test_the_whole_range_of_seeds_is_accepted_and_nothing_beyond(make):
    env = make()
    env.reset(0)
    env.reset(2**31 - 1)
    for seed in (-1, 2**31):
        with refuses("seed", seed):
            env.reset(seed)


def test_the_step_after_an_end_starts_the_next_episode_and_no_other_does(make):
    env = make()
    over, ends = np.zeros(N, bool), np.zeros(N, int)
    env.reset(5)
    for actions in drawn_actions(env, STEPS):
        step = env.step(actions)
        assert np.array_equal(step.started, over)
        assert not (step.started & (step.terminated | step.truncated | step.life_lost)).any()
        assert not (step.terminated & step.truncated).any()
        assert not step.rewards[step.started].any()
        over = step.terminated | step.truncated
        ends += over
    assert ends.all()


def test_the_step_that_starts_an_episode_ignores_its_action(make):
    left, right = make(), make()
    left.reset(5), right.reset(5)
    over = np.zeros(N, bool)
    for actions in drawn_actions(left, STEPS):
        step = left.step(actions)
        other = right.step(np.where(over, (actions + 1) % left.num_actions, actions))
        assert same([tuple(step)], [tuple(other)])
        over = step.terminated | step.truncated


def test_an_end_returns_the_last_observation_and_not_the_next_first_one(protocol):
    env = Chain(3, N, protocol("plain"))
    env.reset(0)
    env.step(np.ones(N, int))
    end = env.step(np.ones(N, int))
    assert end.terminated.all()
    assert end.observations.argmax(1).tolist() == [2] * N
    assert env.step(np.ones(N, int)).observations.argmax(1).tolist() == [0] * N


def test_returned_arrays_are_never_changed_later(make):
    env = make()
    kept = play(env, 5, drawn_actions(env, 120))
    copies = [tuple(array.copy() for array in step) for step in kept]
    play(env, 6, drawn_actions(env, 120, seed=1))
    assert same(kept, copies)


def test_shapes_and_types_are_the_announced_ones(make):
    env = make()
    first = env.reset(0)
    step = env.step(np.zeros(N, np.int64))
    for observations in (first, step.observations):
        assert observations.shape == (N, *env.observation_shape)
        assert observations.dtype == env.observation_dtype
    assert step.rewards.dtype == np.float32
    for field in ("rewards", "terminated", "truncated", "life_lost", "started"):
        assert getattr(step, field).shape == (N,)
    for field in ("terminated", "truncated", "life_lost", "started"):
        assert getattr(step, field).dtype == np.bool_


def test_actions_outside_the_range_are_refused(make):
    env = make()
    env.reset(0)
    for wrong in (-1, env.num_actions):
        with refuses("actions", [wrong] * N):
            env.step(np.full(N, wrong))
    with refuses("actions", (N + 1,)):
        env.step(np.zeros(N + 1, int))


def test_no_environment_at_all_is_refused(protocol):
    for make in (
        lambda: Atari("pong", 0, protocol("braincog")),
        lambda: MinAtar("breakout", 0, protocol("minatar")),
        lambda: Classic("CartPole-v1", 0, protocol("plain")),
        lambda: Identity(3, 0, protocol("plain")),
        lambda: Chain(3, 0, protocol("plain")),
    ):
        with refuses("num_envs", 0):
            make()


@pytest.mark.parametrize("cap", [1, 7])
def test_the_episode_cap_truncates(cap, protocol):
    for env in (
        Classic("CartPole-v1", N, protocol("plain", episode_cap_frames=cap)),
        MinAtar("freeway", N, protocol("minatar", episode_cap_frames=cap)),
        Identity(3, N, protocol("plain", episode_cap_frames=cap)),
        Atari("pong", N, protocol("nature", episode_cap_frames=4 * cap)),
    ):
        env.reset(0)
        for episode in range(2):
            ends = [env.step(np.full(N, k % 2)) for k in range(cap)]
            assert [step.truncated.tolist() for step in ends] == (
                [[False] * N] * (cap - 1) + [[True] * N]
            )
            assert not any(step.terminated.any() for step in ends)
            if episode == 0:
                assert env.step(np.zeros(N, int)).started.all()


@pytest.mark.parametrize(
    ("kind", "name", "changes"),
    [
        ("atari", "braincog", {"difficulty_ramping": True}),
        ("minatar", "minatar", {"noop_max": 30}),
        ("minatar", "minatar", {"fire_reset": True}),
        ("minatar", "minatar", {"life_loss_ends_bootstrap": True}),
        ("classic", "plain", {"sticky_actions": 0.25}),
        ("classic", "plain", {"noop_max": 1}),
        ("classic", "plain", {"fire_reset": True}),
        ("classic", "plain", {"life_loss_ends_bootstrap": True}),
        ("classic", "plain", {"full_action_space": True}),
        ("classic", "plain", {"difficulty_ramping": True}),
        ("toy", "plain", {"sticky_actions": 0.25}),
    ],
)
def test_a_protocol_that_cannot_be_honoured_is_refused_with_key_value_and_remedy(
    kind, name, changes, protocol
):
    build = {
        "atari": lambda p: Atari("pong", 1, p),
        "minatar": lambda p: MinAtar("breakout", 1, p),
        "classic": lambda p: Classic("CartPole-v1", 1, p),
        "toy": lambda p: Identity(3, 1, p),
    }[kind]
    ((key, value),) = changes.items()
    build(protocol(name)).close()
    with refuses(f"protocol.{key}", value, f"protocol={name}"):
        build(protocol(name, **changes))


@pytest.mark.parametrize("name", ["braincog", "nature", "machado", "minatar", "plain"])
def test_every_protocol_file_is_complete_and_plays(name, protocol):
    rules = protocol(name)
    env = MinAtar("breakout", 1, rules) if name == "minatar" else Atari("pong", 1, rules)
    first = env.reset(0)
    step = env.step(np.zeros(1, int))
    assert first.shape == step.observations.shape == (1, *env.observation_shape)
    assert np.isfinite(step.rewards).all()
    assert not step.terminated.any()
    env.close()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("sticky_actions", 1.0),
        ("sticky_actions", math.nan),
        ("epsilon_eval", -0.1),
        ("noop_max", -1),
        ("episode_cap_frames", 0),
        ("eval_episodes", 0),
    ],
)
def test_a_protocol_out_of_range_is_refused(key, value, protocol):
    with refuses(key, value):
        dataclasses.replace(protocol("plain"), **{key: value})
