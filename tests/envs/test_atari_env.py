"""The vector environment of Atari against the plain emulator, and what it promises beyond."""

import cv2
import numpy as np
import pytest
from ale_py import Action, ALEInterface, LoggerMode, roms

from sdqn_lab.envs.atari import REFUSED, Atari, games
from sdqn_lab.envs.base import environment_seeds
from tests.refusals import refuses


class PlainEmulator:
    """One game on the bare emulator, preprocessed here: 4-frame steps, pooling, 84 x 84, stack."""

    def __init__(self, game, seed, *, sticky=0.0, fire=False, full=False, cap=108000):
        ALEInterface.setLoggerMode(LoggerMode.Error)
        self.ale = ALEInterface()
        self.ale.setFloat("repeat_action_probability", sticky)
        self.ale.setInt("random_seed", seed)
        self.ale.loadROM(roms.get_rom_path(game))
        self.actions = self.ale.getLegalActionSet() if full else self.ale.getMinimalActionSet()
        self.fire, self.cap = fire and Action.FIRE in self.actions, cap

    def start(self, noops=0):
        self.ale.reset_game()
        if self.fire:
            self.ale.act(Action.FIRE)
        for _ in range(noops):
            self.ale.act(Action.NOOP)
        self.age, self.lives = 0, self.ale.lives()
        self.stack = np.zeros((4, 84, 84), np.uint8)
        self.newest, self.before = self.ale.getScreenGrayscale(), np.zeros((210, 160), np.uint8)
        return self.shown()

    def shown(self):
        # After an episode's end the emulator pools what it had drawn before, so this does too.
        self.newest = np.maximum(self.newest, self.before)
        picture = cv2.resize(self.newest, (84, 84), interpolation=cv2.INTER_AREA)
        self.stack = np.concatenate([self.stack[1:], picture[None]])
        return self.stack

    def play(self, action):
        reward = 0
        for frame in range(4):
            reward += self.ale.act(self.actions[action])
            self.age += 1
            terminated = self.ale.game_over()
            truncated = self.age >= self.cap and not terminated
            if terminated or truncated:
                break
            if frame == 2:
                self.before = self.ale.getScreenGrayscale()
            if frame == 3:
                self.newest = self.ale.getScreenGrayscale()
        lost = self.ale.lives() < self.lives and not terminated
        self.lives = self.ale.lives()
        return self.shown(), reward, terminated, truncated, lost


@pytest.mark.parametrize(
    ("game", "name", "changes", "steps"),
    [
        ("pong", "plain", {"episode_cap_frames": 1100}, 290),
        ("breakout", "plain", {"fire_reset": True, "sticky_actions": 0.25}, 250),
        ("seaquest", "plain", {"fire_reset": True}, 400),
        ("space_invaders", "machado", {"episode_cap_frames": 1001}, 260),
        ("qbert", "machado", {}, 400),
        ("ms_pacman", "plain", {"episode_cap_frames": 600}, 160),
    ],
)
def test_frame_by_frame_equal_to_the_plain_emulator(game, name, changes, steps, protocol):
    rules = protocol(name, **changes)
    env = Atari(game, 2, rules)
    plain = [
        PlainEmulator(
            game,
            seed,
            sticky=rules.sticky_actions,
            fire=rules.fire_reset,
            full=rules.full_action_space,
            cap=rules.episode_cap_frames,
        )
        for seed in environment_seeds(11, 2)
    ]
    assert env.num_actions == len(plain[0].actions)
    assert np.array_equal(env.reset(11), [emulator.start() for emulator in plain])
    over, rewarded, ended = np.zeros(2, bool), 0, 0
    for actions in np.random.default_rng(2).integers(env.num_actions, size=(steps, 2)):
        step = env.step(actions)
        expected = [
            (emulator.start(), 0, False, False, False) if start else emulator.play(action)
            for emulator, action, start in zip(plain, actions, over, strict=True)
        ]
        observations, rewards, terminated, truncated, lost = zip(*expected, strict=True)
        assert np.array_equal(step.observations, observations)
        assert step.rewards.tolist() == list(rewards)
        assert step.terminated.tolist() == list(terminated)
        assert step.truncated.tolist() == list(truncated)
        assert step.life_lost.tolist() == list(lost)
        assert np.array_equal(step.started, over)
        over = step.terminated | step.truncated
        rewarded += np.count_nonzero(rewards)
        ended += over.sum()
    assert rewarded > 0
    assert ended > 0


def explained_openings(env, game, *, fire, most):
    """For each environment, after which numbers of no-ops the plain emulator shows the same."""
    emulator, still = PlainEmulator(game, 1, fire=fire), np.full(env.num_envs, 2)
    shown = np.stack([env.reset(1), *(env.step(still).observations for _ in range(20))])
    openings = [
        np.stack([emulator.start(noops), *(emulator.play(2)[0] for _ in range(20))])
        for noops in range(most + 1)
    ]
    return [
        {noops for noops, opening in enumerate(openings) if np.array_equal(opening, shown[:, row])}
        for row in range(env.num_envs)
    ]


def test_between_no_and_noop_max_noops_open_a_game(protocol):
    env = Atari("freeway", 9, protocol("plain", noop_max=3))
    explained = explained_openings(env, "freeway", fire=False, most=5)
    assert all(len(noops) == 1 for noops in explained)
    assert set.union(*explained) == {0, 1, 2, 3}


def test_fire_comes_before_the_noops_and_counts_as_one_of_them(protocol):
    env = Atari("breakout", 8, protocol("plain", noop_max=3, fire_reset=True))
    explained = explained_openings(env, "breakout", fire=True, most=5)
    assert all(len(noops) == 1 for noops in explained)
    assert set.union(*explained) == {0, 1, 2}


@pytest.mark.parametrize("name", ["braincog", "machado"])
def test_frames_before_an_episode_are_zeros_and_stacks_shift_by_one_frame(name, protocol):
    env = Atari("breakout", 2, protocol(name))
    stacks, starts = env.reset(4), 0
    assert not stacks[:, :3].any()
    assert stacks[:, 3].any(axis=(1, 2)).all()
    for actions in np.random.default_rng(0).integers(env.num_actions, size=(250, 2)):
        step = env.step(actions)
        for row in range(2):
            older = np.zeros_like(stacks[row, 1:]) if step.started[row] else stacks[row, 1:]
            assert np.array_equal(step.observations[row, :3], older)
        stacks = step.observations
        starts += step.started.sum()
    assert starts > 0


def test_breakout_loses_four_lives_a_game_without_a_new_game(protocol):
    env = Atari("breakout", 2, protocol("braincog"))
    env.reset(0)
    lost, games_over = np.zeros(2, int), 0
    for actions in np.random.default_rng(0).integers(env.num_actions, size=(500, 2)):
        step = env.step(actions)
        assert not (step.life_lost & (step.terminated | step.started)).any()
        lost += step.life_lost
        for row in np.flatnonzero(step.terminated):
            assert lost[row] == 4
            lost[row], games_over = 0, games_over + 1
    assert games_over >= 3


def test_fire_is_not_pressed_for_the_player_after_a_lost_life(protocol):
    env = Atari("breakout", 1, protocol("braincog"))
    env.reset(0)
    noops = np.zeros(1, int)
    while not env.step(noops).life_lost[0]:
        pass
    for _ in range(10):
        env.step(noops)
    # Without FIRE there is no ball: two pictures a second apart are the same.
    waiting = [env.step(noops).observations[0, -1] for _ in range(15)]
    assert np.array_equal(waiting[0], waiting[-1])


def test_the_last_life_shown_as_zero_is_still_a_life(protocol):
    env = Atari("frogger", 2, protocol("plain"))
    env.reset(0)
    lost = np.zeros(2, int)
    for actions in np.random.default_rng(0).integers(env.num_actions, size=(400, 2)):
        step = env.step(actions)
        lost += step.life_lost
        if step.terminated.any():
            break
    assert lost[step.terminated].tolist() == [4] * step.terminated.sum()


def test_rewards_are_raw_points(protocol):
    env = Atari("space_invaders", 2, protocol("braincog"))
    env.reset(0)
    actions = np.random.default_rng(0).integers(env.num_actions, size=(200, 2))
    rewards = {float(reward) for row in actions for reward in env.step(row).rewards}
    assert rewards > {0.0}
    assert rewards <= {0.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 200.0}


def test_the_number_of_threads_changes_nothing(protocol):
    one, two = (Atari("pong", 3, protocol("braincog"), num_threads=k) for k in (1, 2))
    assert np.array_equal(one.reset(3), two.reset(3))
    for actions in np.random.default_rng(0).integers(one.num_actions, size=(100, 3)):
        pairs = zip(one.step(actions), two.step(actions), strict=True)
        assert all(np.array_equal(left, right) for left, right in pairs)
    with refuses("num_threads", -1):
        Atari("pong", 1, protocol("braincog"), num_threads=-1)


def test_the_full_action_space_has_eighteen_actions(protocol):
    assert Atari("pong", 1, protocol("machado")).num_actions == 18
    assert Atari("pong", 1, protocol("braincog")).num_actions == 6


@pytest.mark.parametrize("game", REFUSED)
def test_the_four_games_that_end_the_process_are_refused(game, protocol):
    with refuses("id", game, "env=pong"):
        Atari(game, 1, protocol("braincog"))
    assert game not in games()


def test_a_misspelt_game_is_answered_with_near_ones(protocol):
    with refuses("id", "brekout", "env=breakout"):
        Atari("brekout", 1, protocol("braincog"))
    with refuses("id", "zzz", "env=pong"):
        Atari("zzz", 1, protocol("braincog"))


@pytest.mark.parametrize(
    "game",
    [
        pytest.param(game, marks=[] if number % 13 == 0 else [pytest.mark.slow])
        for number, game in enumerate(games())
    ],
)
def test_every_game_constructs_and_steps(game, protocol):
    env = Atari(game, 1, protocol("braincog"))
    assert env.reset(0).shape == (1, 4, 84, 84)
    assert 3 <= env.num_actions <= 18
    step = env.step(np.zeros(1, int))
    assert step.observations.shape == (1, 4, 84, 84)
    assert not (step.started | step.terminated | step.truncated).any()
    env.close()


def test_there_are_104_games():
    assert len(games()) == 104
    assert games() == sorted(set(games()))
