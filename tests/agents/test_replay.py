"""Replay against a naive reference that keeps whole episodes of fully stacked observations."""

from collections import Counter, deque
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from sdqn_lab.agents.replay import Replay
from sdqn_lab.agents.returns import n_step_return
from tests.refusals import refuses

ATARI_FRAME = (1, 84, 84)
FRAME = (1, 2, 2)


@dataclass
class Transition:
    row: int
    observation: np.ndarray
    action: int
    reward: float
    terminal: bool
    next_observation: np.ndarray | None = None


@dataclass
class Episode:
    transitions: list[Transition] = field(default_factory=list)
    over: bool = False


@dataclass
class Expected:
    observation: np.ndarray
    action: int
    returns: float
    discount: float
    next_observation: np.ndarray


class Reference:
    """What a replay should hand out, found by walking lists one transition at a time."""

    def __init__(self, capacity_rows, num_envs, stack):
        self.capacity_rows, self.stack = capacity_rows, stack
        self.episodes = [[] for _ in range(num_envs)]
        self.rows = 0

    def begin(self, env):
        self.episodes[env].append(Episode())

    def add(self, env, transition):
        self.episodes[env][-1].transitions.append(transition)

    def finish(self, env):
        self.episodes[env][-1].over = True

    def drawable(self, n_step, gamma):
        """Map from (row, env) to what must come out."""
        found = {}
        for env, episodes in enumerate(self.episodes):
            for episode in episodes:
                for index in range(len(episode.transitions)):
                    expected = self._window(episode, index, n_step, gamma)
                    if expected is not None:
                        found[episode.transitions[index].row, env] = expected
        return found

    def _window(self, episode, index, n_step, gamma):
        start = episode.transitions[index]
        if start.row - min(index, self.stack - 1) < max(0, self.rows - self.capacity_rows):
            return None
        returns, discount = 0.0, 1.0
        for step in range(n_step):
            if index + step >= len(episode.transitions):
                if not episode.over:
                    return None
                break
            last = episode.transitions[index + step]
            if last.row + 1 >= self.rows:
                return None
            returns += discount * last.reward
            discount *= gamma
            if last.terminal:
                discount = 0.0
                break
        return Expected(start.observation, start.action, returns, discount, last.next_observation)


class Game:
    """Random environments with next-step autoreset that feed a replay and its reference alike."""

    def __init__(self, seed, *, capacity_rows, num_envs, stack, spare_steps=0):
        self.rng = np.random.default_rng(seed)
        self.num_envs, self.stack = num_envs, stack
        self.replay = Replay(capacity_rows * num_envs - spare_steps, num_envs, FRAME, stack)
        self.reference = Reference(capacity_rows, num_envs, stack)
        self.end_rate = self.rng.choice([0.02, 0.2, 0.5])
        self.reset()

    def reset(self):
        self.frames = [deque(maxlen=self.stack) for _ in range(self.num_envs)]
        self.ended = [False] * self.num_envs
        for env in range(self.num_envs):
            self._start(env)

    def _start(self, env):
        blank = np.zeros(FRAME, np.uint8)
        self.frames[env].extend([blank] * self.stack)
        self.reference.begin(env)
        self.frames[env].append(self._frame(env, self.reference.rows))

    def _frame(self, env, row):
        # The frame names the row and environment it is stored in; its last byte tells it from
        # the zeros before an episode.
        return np.array([row % 256, row // 256, env, 1], np.uint8).reshape(FRAME)

    def observation(self, env):
        return np.concatenate(self.frames[env])

    def newest(self):
        return np.stack([frames[-1] for frames in self.frames])

    def step(self):
        actions = self.rng.integers(0, 18, self.num_envs)
        rewards = self.rng.integers(-3, 4, self.num_envs).astype(np.float32)
        frames, started = self.newest(), np.array(self.ended)
        terminal = np.zeros(self.num_envs, bool)
        row, self.reference.rows = self.reference.rows, self.reference.rows + 1
        for env in range(self.num_envs):
            terminal[env] = self._step_one(env, row, actions[env], rewards[env])
        # The action and reward of an autoreset row mean nothing: whatever stands there is ignored.
        self.replay.append(frames, actions, rewards, terminal=terminal, valid=~started)

    def _step_one(self, env, row, action, reward):
        if self.ended[env]:
            self.ended[env] = False
            self._start(env)
            return False
        kind = self.rng.random()
        over = kind < self.end_rate
        terminal = kind < 0.5 * self.end_rate or 1.0 - kind < 0.1  # the latter: a lost life
        transition = Transition(row, self.observation(env), action, reward, terminal)
        self.frames[env].append(self._frame(env, row + 1))
        transition.next_observation = self.observation(env)
        self.reference.add(env, transition)
        if over:
            self.reference.finish(env)
        self.ended[env] = over
        return terminal

    def close(self):
        self.replay.close(self.newest())
        self.reference.rows += 1
        for env in range(self.num_envs):
            self.reference.finish(env)
        self.reset()

    def play(self, steps, close_rate=0.0):
        for _ in range(steps):
            self.step()
            if self.rng.random() < close_rate:
                self.close()


def origin(observation):
    """(row, env) written into the newest frame."""
    low, high, env, mark = observation[-1].ravel()
    assert mark == 1
    return int(low) + 256 * int(high), int(env)


def draws(replay, count, n_step, gamma, seed=0):
    """At least `count` transitions, in batches as large as the replay grants."""
    rng = np.random.default_rng(seed)
    size = max(b for b in range(1, replay.transitions + 1) if replay.can_sample(b, n_step))
    for _ in range(-(-count // size)):
        batch = replay.sample(size, n_step, gamma, rng)
        yield from zip(*(tensor.numpy() for tensor in batch), strict=True)


def assert_same(game, n_step, gamma, count):
    """Every draw equals the reference's entry of the same origin, and no entry is left out."""
    expected = game.reference.drawable(n_step, gamma)
    seen = set()
    for observation, action, returns, discount, next_observation in draws(
        game.replay, count * len(expected), n_step, gamma
    ):
        seen.add(origin(observation))
        reference = expected[origin(observation)]
        assert np.array_equal(observation, reference.observation)
        assert np.array_equal(next_observation, reference.next_observation)
        assert action == reference.action
        assert abs(returns - reference.returns) < 1e-6
        assert abs(discount - reference.discount) < 1e-7
    assert seen == set(expected)


def assert_same_draws(first, second, n_step=3):
    rngs = np.random.default_rng(7), np.random.default_rng(7)
    for _ in range(8):
        pair = [r.sample(16, n_step, 0.9, g) for r, g in zip((first, second), rngs, strict=True)]
        assert all(torch.equal(a, b) for a, b in zip(*pair, strict=True))


@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("seed", range(12))
def test_random_operations_hand_out_what_the_naive_reference_holds(seed, n_step, num_envs):
    capacity_rows = 12 + 3 * seed
    game = Game(seed, capacity_rows=capacity_rows, num_envs=num_envs, stack=1 + seed % 4)
    for _ in range(6):
        game.play(capacity_rows // 2, close_rate=0.1 * (seed % 3))
        if game.replay.can_sample(1, n_step):
            assert_same(game, n_step, 0.9, count=20)
    assert game.replay.rows == capacity_rows < game.replay.rows_written


@pytest.mark.parametrize("n_step", [1, 2, 7])
def test_sums_are_those_of_the_pure_function_to_the_last_bit(n_step):
    game = Game(20, capacity_rows=90, num_envs=3, stack=2)
    game.end_rate = 0.1
    game.play(140, close_rate=0.05)
    replay, gamma = game.replay, 0.97
    stored = replay.export_rows(replay.oldest_row, replay.rows_written)
    for observation, _, returns, discount, _ in draws(replay, 600, n_step, gamma):
        row, env = origin(observation)
        first = row - replay.oldest_row
        valid_next = stored["valid"][first + 1 : first + 1 + n_step, env]
        steps = slice(first, first + len(valid_next))  # a stop comes before the stored rows end
        terminal = stored["terminal"][steps, env, None]
        stop = terminal | ~valid_next[:, None]
        expected = n_step_return(stored["rewards"][steps, env, None], terminal, stop, gamma)
        assert returns == np.float32(expected.returns[0])
        assert discount == np.float32(expected.discounts[0])


@pytest.mark.parametrize("offset", range(9))
def test_windows_and_stacks_run_across_the_rings_seam(offset):
    game = Game(99, capacity_rows=20, num_envs=2, stack=4)
    game.end_rate = 0.1
    game.play(40 + offset)
    assert_same(game, 5, 0.9, count=20)


def test_long_episodes_keep_full_stacks_when_their_age_saturates():
    game = Game(1, capacity_rows=400, num_envs=1, stack=4)
    game.end_rate = 0.0
    game.play(700)
    assert_same(game, 3, 0.9, count=10)


def one_env(rows, *, stack=2, capacity=100):
    """Replay of one environment from (reward, terminal, valid) rows; frame r holds r + 1."""
    replay = Replay(capacity, 1, (1,), stack)
    for row, (reward, terminal, valid) in enumerate(rows):
        replay.append(
            np.array([[row + 1]], np.uint8),
            np.array([row % 7]),
            np.array([reward], np.float32),
            terminal=np.array([terminal]),
            valid=np.array([valid]),
        )
    return replay


def outcomes(replay, n_step=1, gamma=0.5):
    """(returns, discount, next observation) by observation, from many draws."""
    return {
        tuple(observation.tolist()): (returns, discount, tuple(following.tolist()))
        for observation, _, returns, discount, following in draws(replay, 400, n_step, gamma)
    }


STEP = (1.0, False, True)
LAST = (1.0, True, True)
AUTORESET = (7.0, False, False)


def test_frames_before_an_episodes_start_are_zeros():
    replay = one_env([STEP, LAST, AUTORESET, STEP, STEP, STEP, STEP], stack=4)
    seen = outcomes(replay)
    assert (0, 0, 0, 1) in seen
    assert (0, 0, 1, 2) in seen
    assert (0, 0, 0, 4) in seen
    assert (0, 0, 4, 5) in seen


def test_an_autoreset_row_is_never_drawn_and_its_reward_never_summed():
    replay = one_env([STEP, LAST, AUTORESET, STEP, STEP, STEP, STEP, STEP])
    seen = outcomes(replay, n_step=3)
    assert not any(observation[-1] == 3 for observation in seen)
    assert seen[0, 1] == (1.5, 0.0, (2, 3))
    assert seen[1, 2] == (1.0, 0.0, (2, 3))


def test_truncation_bootstraps_from_the_final_observation():
    replay = one_env([STEP, STEP, AUTORESET, STEP, STEP, STEP, STEP, STEP])
    seen = outcomes(replay, n_step=3)
    assert seen[0, 1] == (1.5, 0.25, (2, 3))
    assert seen[1, 2] == (1.0, 0.5, (2, 3))


def test_a_lost_life_cuts_the_bootstrap_and_the_stack_goes_on():
    replay = one_env([STEP, LAST, STEP, STEP, STEP, STEP, STEP])
    seen = outcomes(replay, n_step=3)
    assert seen[0, 1] == (1.5, 0.0, (2, 3))
    assert seen[2, 3] == (1.75, 0.125, (5, 6))


def test_the_newest_rows_wait_until_their_successor_is_stored():
    replay = one_env([STEP] * 10)
    assert {observation[-1] for observation in outcomes(replay, n_step=1)} == set(range(1, 10))
    assert {observation[-1] for observation in outcomes(replay, n_step=3)} == set(range(1, 8))
    replay.append(
        np.array([[11]], np.uint8),
        np.array([0]),
        np.array([1.0], np.float32),
        terminal=np.array([False]),
        valid=np.array([True]),
    )
    assert {observation[-1] for observation in outcomes(replay, n_step=3)} == set(range(1, 9))


def test_a_terminal_newest_row_waits_too():
    replay = one_env([STEP] * 8 + [LAST])
    assert {observation[-1] for observation in outcomes(replay, n_step=3)} == set(range(1, 7))


def test_close_truncates_running_episodes_at_the_current_observation():
    replay = one_env([STEP] * 6)
    replay.close(np.array([[50]], np.uint8))
    seen = outcomes(replay, n_step=3)
    assert seen[5, 6] == (1.0, 0.5, (6, 50))
    assert seen[4, 5] == (1.5, 0.25, (6, 50))
    assert not any(observation[-1] == 50 for observation in seen)


def test_close_after_a_terminal_step_leaves_it_terminal():
    replay = one_env([STEP] * 5 + [LAST])
    replay.close(np.array([[50]], np.uint8))
    assert outcomes(replay, n_step=3)[5, 6] == (1.0, 0.0, (6, 50))


def test_close_right_after_an_autoreset_row_adds_nothing_to_draw():
    replay = one_env([STEP] * 5 + [LAST, AUTORESET])
    replay.close(np.array([[50]], np.uint8))
    assert {observation[-1] for observation in outcomes(replay)} == {1, 2, 3, 4, 5, 6}


def test_the_row_after_close_starts_an_episode():
    replay = one_env([STEP] * 4)
    replay.close(np.array([[50]], np.uint8))
    for frame in (60, 61, 62):
        replay.append(
            np.array([[frame]], np.uint8),
            np.array([0]),
            np.array([0.0], np.float32),
            terminal=np.array([False]),
            valid=np.array([True]),
        )
    seen = outcomes(replay)
    assert (0, 60) in seen
    assert (60, 61) in seen


def test_drawing_is_uniform_over_what_can_be_drawn():
    game = Game(5, capacity_rows=60, num_envs=3, stack=4)
    game.end_rate = 0.2
    game.play(200, close_rate=0.05)
    cells = len(game.reference.drawable(3, 0.9))
    frequency = Counter(origin(draw[0]) for draw in draws(game.replay, 400 * cells, 3, 0.9))
    assert len(frequency) == cells
    mean = frequency.total() / cells
    chi_square = sum((seen - mean) ** 2 / mean for seen in frequency.values())
    # Mean cells - 1, variance 2 (cells - 1): five standard deviations either way.
    assert abs(chi_square - (cells - 1)) < 5 * np.sqrt(2 * (cells - 1))


def test_equal_generators_draw_equal_batches():
    game = Game(8, capacity_rows=40, num_envs=2, stack=4)
    game.play(70)
    assert_same_draws(game.replay, game.replay)


def test_a_batch_has_the_types_and_shapes_that_learning_expects():
    replay = Replay(64, 2, (3, 5), 4)
    for _ in range(20):
        replay.append(
            np.ones((2, 3, 5), np.uint8),
            np.array([1, 255]),
            np.zeros(2, np.float32),
            terminal=np.zeros(2, bool),
            valid=np.ones(2, bool),
        )
    batch = replay.sample(6, 2, 0.5, np.random.default_rng(0))
    assert batch.observations.shape == batch.next_observations.shape == (6, 12, 5)
    assert batch.observations.dtype == torch.uint8
    assert batch.actions.dtype == torch.int64
    assert set(batch.actions.tolist()) <= {1, 255}
    assert batch.returns.dtype == batch.discounts.dtype == torch.float32
    assert batch.discounts.tolist() == [0.25] * 6


def test_float_vectors_come_back_exactly():
    replay = Replay(32, 1, (3,), 1, dtype=torch.float32)
    frames = np.random.default_rng(0).standard_normal((8, 1, 3)).astype(np.float32)
    for frame in frames:
        replay.append(
            frame,
            np.array([0]),
            np.array([0.0], np.float32),
            terminal=np.array([False]),
            valid=np.array([True]),
        )
    rows = {tuple(row[0].tolist()) for row in frames[:-1]}
    assert {tuple(draw[0].tolist()) for draw in draws(replay, 200, 1, 0.9)} == rows


def test_appended_frames_are_copied():
    frame = np.full((1, 1), 9, np.uint8)
    replay = one_env([])
    flag = np.array([True])
    for _ in range(4):
        replay.append(frame, np.array([0]), np.array([0.0]), terminal=~flag, valid=flag)
    frame[:] = 1
    assert set(replay.export_rows(0, 4)["frames"].ravel()) == {9}


@pytest.mark.parametrize("played", [30, 47, 130])
def test_export_and_import_restore_identical_sampling(played):
    game = Game(3, capacity_rows=40, num_envs=2, stack=4)
    game.play(played, close_rate=0.05)
    replay = game.replay
    copy = Replay(80, 2, FRAME, 4)
    copy.import_rows(replay.oldest_row, replay.export_rows(replay.oldest_row, replay.rows_written))
    copy.check_valid()
    assert (copy.rows, copy.rows_written, copy.transitions) == (
        replay.rows,
        replay.rows_written,
        replay.transitions,
    )
    for n_step in (1, 3):
        assert_same_draws(replay, copy, n_step)


def test_increments_add_up_although_close_came_between_them():
    """Rows never change once written: slices taken as the run went on rebuild it."""
    game = Game(11, capacity_rows=40, num_envs=2, stack=4)
    copy, saved = Replay(80, 2, FRAME, 4), 0
    for _ in range(9):
        game.play(10)
        copy.import_rows(saved, game.replay.export_rows(saved, game.replay.rows_written))
        saved = game.replay.rows_written
        game.close()
    copy.import_rows(saved, game.replay.export_rows(saved, game.replay.rows_written))
    assert_same_draws(game.replay, copy)


def test_a_restored_replay_goes_on_like_the_original():
    game = Game(12, capacity_rows=40, num_envs=2, stack=4)
    game.play(65)
    original = game.replay
    copy = Replay(80, 2, FRAME, 4)
    copy.import_rows(original.oldest_row, original.export_rows(original.oldest_row, 65))
    frames, flags = game.newest(), np.zeros(2, bool)
    for replay in (original, copy):
        replay.append(frames, flags, flags, terminal=flags, valid=~np.array(game.ended))
    pair = [r.export_rows(30, 66) for r in (original, copy)]
    assert all((pair[0][name] == pair[1][name]).all() for name in pair[0])
    assert_same_draws(original, copy)


def test_importing_more_rows_than_fit_keeps_the_newest():
    game = Game(13, capacity_rows=40, num_envs=1, stack=4)
    game.play(40)
    small = Replay(15, 1, FRAME, 4)
    small.import_rows(0, game.replay.export_rows(0, 40))
    assert (small.oldest_row, small.rows_written) == (25, 40)
    kept, expected = small.export_rows(25, 40), game.replay.export_rows(25, 40)
    assert all((kept[name] == expected[name]).all() for name in expected)


def test_a_replay_that_took_over_only_the_newest_rows_holds_no_others():
    game = Game(19, capacity_rows=40, num_envs=1, stack=4)
    game.end_rate = 0.05
    game.play(39)
    copy = Replay(40, 1, FRAME, 4)
    copy.import_rows(20, game.replay.export_rows(20, 39))
    assert (copy.oldest_row, copy.rows) == (20, 19)
    drawn = {origin(draw[0])[0] for draw in draws(copy, 400, 3, 0.9)}
    possible = {row for row, _ in game.reference.drawable(3, 0.9)}
    assert {row for row in possible if row >= 23} <= drawn <= {r for r in possible if r >= 20}


def test_a_gap_between_increments_is_refused():
    game = Game(14, capacity_rows=40, num_envs=1, stack=4)
    game.play(30)
    copy = Replay(40, 1, FRAME, 4)
    copy.import_rows(0, game.replay.export_rows(0, 10))
    with refuses("first", 20, "10"):
        copy.import_rows(20, game.replay.export_rows(20, 30))


def test_rows_that_are_not_stored_cannot_be_exported():
    game = Game(15, capacity_rows=20, num_envs=1, stack=4)
    game.play(30)
    for first, last in ((9, 12), (12, 31), (15, 14)):
        with refuses("rows", f"[{first}, {last})", rule="[10, 30]"):
            game.replay.export_rows(first, last)


def test_rows_of_another_shape_are_refused():
    game = Game(16, capacity_rows=20, num_envs=2, stack=4)
    game.play(10)
    with refuses("frames", (10, 2, *FRAME)):
        Replay(20, 1, FRAME, 4).import_rows(0, game.replay.export_rows(0, 10))


def test_rows_that_contradict_the_timeline_are_found():
    game = Game(17, capacity_rows=20, num_envs=2, stack=4)
    game.play(10)
    arrays = game.replay.export_rows(0, 10)
    arrays["age"][6, 1] += 1
    copy = Replay(40, 2, FRAME, 4)
    copy.import_rows(0, arrays)
    with pytest.raises(ValueError, match="replay row 6 does not follow"):
        copy.check_valid()


def test_a_million_atari_transitions_need_at_most_seven_point_three_gigabytes():
    for num_envs in (1, 8, 10, 64):
        assert Replay.bytes_needed(1_000_000, num_envs, ATARI_FRAME, torch.uint8) <= 7.3e9


@pytest.mark.parametrize(
    ("capacity", "num_envs", "frame", "dtype"),
    [(1000, 8, ATARI_FRAME, torch.uint8), (101, 10, (4,), torch.float32)],
)
def test_the_estimate_equals_what_is_allocated(capacity, num_envs, frame, dtype):
    replay = Replay(capacity, num_envs, frame, 1, dtype=dtype)
    assert Replay.bytes_needed(capacity, num_envs, frame, dtype) == replay.nbytes


def test_capacity_is_rounded_up_to_rows():
    game = Game(18, capacity_rows=30, num_envs=3, stack=2, spare_steps=2)
    game.play(50)
    assert game.replay.rows == game.replay.capacity_rows == 30


def test_transitions_counts_valid_rows_only():
    assert one_env([STEP, LAST, AUTORESET, STEP]).transitions == 3
    assert one_env([STEP, LAST, AUTORESET, STEP], capacity=2).transitions == 1


@pytest.mark.parametrize("seed", range(20))
def test_can_sample_promises_no_more_than_there_is(seed):
    game = Game(seed, capacity_rows=15, num_envs=2, stack=1 + seed % 4)
    for _ in range(40):
        game.play(1, close_rate=0.1)
        available = len(game.reference.drawable(3, 0.9))
        assert not game.replay.can_sample(available + 1, 3)


def test_an_empty_replay_cannot_sample():
    assert not one_env([]).can_sample(1, 1)


@pytest.mark.parametrize(
    ("arguments", "key", "value"),
    [
        ((0, 1, 0.9), "batch_size", 0),
        ((4, 0, 0.9), "n_step", 0),
        ((4, 1, 1.5), "gamma", 1.5),
        ((50, 1, 0.9), "batch_size", 50),
    ],
)
def test_bad_draws_are_named(arguments, key, value):
    with refuses(key, value):
        one_env([STEP] * 10).sample(*arguments, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("arguments", "key", "value"),
    [
        ((100, 0, FRAME, 4), "num_envs", 0),
        ((8, 8, FRAME, 4), "capacity_steps", 8),
        ((100, 8, (), 4), "frame_shape", ()),
        ((100, 8, (1, 0), 4), "frame_shape", (1, 0)),
        ((100, 8, FRAME, 0), "stack", 0),
        ((100, 8, FRAME, 257), "stack", 257),
    ],
)
def test_bad_sizes_are_named(arguments, key, value):
    with refuses(key, value):
        Replay(*arguments)


def test_a_column_that_would_be_spread_over_the_environments_is_refused():
    replay, flags = Replay(20, 3, FRAME, 1), np.zeros(3, bool)
    with refuses("rewards", (1,)):
        replay.append(
            np.zeros((3, *FRAME), np.uint8), flags, np.zeros(1), terminal=flags, valid=flags
        )


@pytest.mark.parametrize(
    ("frames", "action", "key", "value"),
    [
        (np.zeros((1, 4), np.uint8), 0, "frames", (1, 4)),
        (np.zeros((1, 1), np.float32), 0, "frames", "float32"),
        (np.zeros((1, 1), np.uint8), 256, "actions", [256]),
        (np.zeros((1, 1), np.uint8), -1, "actions", [-1]),
    ],
)
def test_bad_rows_are_named_and_leave_nothing_behind(frames, action, key, value):
    replay, flag = one_env([]), np.array([False])
    with refuses(key, value):
        replay.append(frames, np.array([action]), np.array([0.0]), terminal=flag, valid=~flag)
    assert replay.rows == 0
