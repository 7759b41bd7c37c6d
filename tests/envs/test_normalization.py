"""Statistics of observations and rewards: Gymnasium's own numbers, and calculations by hand."""

from importlib.util import find_spec

import gymnasium
import numpy as np
import pytest
from gymnasium.wrappers.vector import NormalizeObservation, NormalizeReward

from sdqn_lab.assembly import build
from sdqn_lab.config.identity import identity
from sdqn_lab.envs import classic
from sdqn_lab.envs.base import Step, environment_seeds
from sdqn_lab.envs.classic import Classic
from sdqn_lab.envs.minatar import MinAtar
from sdqn_lab.envs.normalization import Normalized, Normalizer, RewardScaler
from sdqn_lab.training.collector import Collector
from tests.cells import composed
from tests.refusals import problems, refuses, subject
from tests.toy_envs import Chain

N = 3


def theirs(id: str) -> gymnasium.vector.VectorEnv:
    return gymnasium.vector.SyncVectorEnv([lambda: gymnasium.make(id)] * N)


def step_of(reward: float, *, ended: bool = False, started: bool = False) -> Step:
    no, flag = np.zeros(1, np.bool_), lambda on: np.array([on])
    rewards = np.array([reward], np.float32)
    return Step(np.zeros((1, 1), np.float32), rewards, flag(ended), no, no, flag(started))


def test_observations_are_those_of_gymnasiums_wrapper(protocol):
    ours = Classic("CartPole-v1", N, protocol("plain"))
    normalized = Normalized(ours, Normalizer((4,), clip=1e9), learning=True)
    wrapper = NormalizeObservation(theirs("CartPole-v1"))
    shown = [normalized.reset(5)]
    expected = [wrapper.reset(seed=environment_seeds(5, N))[0]]
    rng = np.random.default_rng(0)
    for actions in rng.integers(2, size=(200, N)):
        shown.append(normalized.step(actions).observations)
        expected.append(wrapper.step(actions)[0])
    np.testing.assert_allclose(shown, expected, rtol=1e-3, atol=1e-3)
    assert shown[-1].dtype == np.float32


def test_rewards_are_those_of_gymnasiums_wrapper_until_an_episode_ends(protocol):
    ours, scaler = Classic("MountainCar-v0", N, protocol("plain")), RewardScaler(N, 0.9)
    wrapper = NormalizeReward(theirs("MountainCar-v0"), gamma=0.9)
    ours.reset(0)
    wrapper.reset(seed=0)
    for actions in np.random.default_rng(0).integers(3, size=(150, N)):
        scaled, expected = scaler(ours.step(actions)), wrapper.step(actions)[1]
        np.testing.assert_allclose(scaled, np.clip(expected, -10, 10), rtol=1e-5)


def test_the_return_behind_a_rewards_scale_begins_anew_with_each_episode():
    scaler, start = RewardScaler(1, 0.5), step_of(0.0, started=True)
    scaled = [scaler(step) for step in (step_of(1.0), step_of(2.0, ended=True), start)]
    scaled.append(scaler(step_of(3.0)))
    # Returns 1, 0.5 + 2 and, after the end, 3; what only starts an episode has none. The prior of
    # weight 1e-4 is of no account.
    deviations = [np.std([1, 2.5]), np.std([1, 2.5]), np.std([1, 2.5, 3])]
    assert np.concatenate(scaled[1:]) == pytest.approx([2.0, 0.0, 3.0] / np.array(deviations), 1e-3)


def test_outliers_are_clipped():
    normalizer = Normalizer((2,), clip=3.0)
    assert normalizer(np.array([[2.0, -50.0]])).tolist() == [[2.0, -3.0]]
    scaler = RewardScaler(1, 0.0)
    assert [float(scaler(step_of(r))[0]) for r in [0.0] * 10_000 + [7.0]][-1] == 10.0


def test_what_an_evaluation_sees_moves_no_statistics(protocol):
    normalizer = Normalizer((1,), clip=10.0)
    normalizer.moments.update(np.array([[1.0], [3.0]]))
    frozen = Normalized(Chain(5, 2, protocol("plain")), normalizer, learning=False)
    before = normalizer.moments.state_dict()
    raw = Chain(5, 2, protocol("plain")).reset(0)
    assert frozen.reset(0) == pytest.approx(raw - 2.0, abs=1e-3)
    frozen.step(np.zeros(2, np.int64))
    assert normalizer.moments.state_dict() == before


def test_learning_sees_scaled_rewards_and_a_score_is_raw(protocol):
    env = Classic("CartPole-v1", N, protocol("plain"))
    collector = Collector(
        env, reward_clipping=False, life_loss_ends_bootstrap=False, return_discount=0.99
    )
    collector.start(0)
    steps = [collector.step(np.zeros(N, np.int64)) for _ in range(30)]
    ended = [episode for _, episodes in steps for episode in episodes]
    assert ended and all(score == length for score, length in ended)
    assert not set(np.concatenate([row.rewards for row, _ in steps])) <= {0.0, 1.0}


def test_statistics_go_on_bit_for_bit_from_the_middle_of_an_iteration_and_between_two(protocol):
    def fresh() -> Collector:
        env = Classic("CartPole-v1", N, protocol("plain"))
        env = Normalized(env, Normalizer((4,), clip=10.0), learning=True)
        settings = {"reward_clipping": False, "life_loss_ends_bootstrap": False}
        return Collector(env, **settings, return_discount=0.9)

    def rows(collector: Collector, count: int) -> list[np.ndarray]:
        taken = [collector.step(np.full(N, i % 2))[0] for i in range(count)]
        return [column for row in taken for column in (row.observations, row.rewards)]

    whole, resumed, later = fresh(), fresh(), fresh()
    whole.start(1)
    rows(whole, 60)
    whole.start(2)
    rows(whole, 41)
    resumed.load_state_dict(whole.state_dict())
    assert all(map(np.array_equal, rows(whole, 60), rows(resumed, 60)))
    whole.running = False
    later.load_state_dict(whole.state_dict())
    for collector in (whole, later):
        collector.start(3)
    assert all(map(np.array_equal, rows(whole, 60), rows(later, 60)))


def test_images_are_not_normalized(protocol):
    shape = MinAtar("breakout", 1, protocol("minatar")).observation_shape
    with refuses("env.normalize_observations", True, "false", rule="images (4, 10, 10)"):
        Normalizer(shape, clip=10.0)


@pytest.mark.parametrize(
    ("overrides", "subject_"),
    [
        (["env=minatar_breakout"], "env.normalize_observations=true"),
        (["env=cartpole", "env.observation_clip=0"], "env.observation_clip=0.0"),
    ],
)
def test_a_command_that_cannot_normalize_observations_is_refused(overrides, subject_):
    found = problems([*overrides, "env.normalize_observations=true", "tracker=none"])
    assert [subject(problem) for problem in found] == [subject_]


def test_rewards_are_either_clipped_to_their_sign_or_scaled():
    overrides = ["env=cartpole", "protocol.reward_clipping=true", "env.normalize_rewards=true"]
    (problem,) = problems([*overrides, "tracker=none"])
    assert subject(problem) == "env.normalize_rewards=true"


def test_a_cell_without_normalization_is_the_cell_that_it_was_before_there_was_any():
    plain = composed(("env=cartpole", "tracker=none", "env.observation_clip=3"))
    keys = {"normalize_observations", "normalize_rewards", "observation_clip"}
    assert not keys & identity(plain)["env"].keys()
    on = "env.normalize_observations=true"
    asked = composed(("env=cartpole", "tracker=none", on, "env.observation_clip=3"))
    assert identity(asked)["env"].keys() >= {"normalize_observations", "observation_clip"}


def test_a_missing_package_is_named_with_the_extra_that_brings_it(monkeypatch):
    def make(id: str, **settings: object) -> None:
        raise gymnasium.error.DependencyNotInstalled("MuJoCo is not installed, run `pip install`")

    monkeypatch.setattr(classic.gymnasium, "make", make)
    monkeypatch.setattr(classic, "find_spec", lambda name: None)
    (problem,) = problems(["env=hopper", "tracker=none"])
    assert (problem.key, problem.instead) == ("env.id", "pip install 'sdqn_lab[mujoco]'")
    assert "Hopper-v5 needs the package mujoco" in str(problem)


@pytest.mark.skipif(
    find_spec("mujoco") is None, reason="MuJoCo is an extra: pip install -e '.[mujoco]'"
)
@pytest.mark.parametrize("env", ["inverted_pendulum", "hopper", "half_cheetah", "walker2d", "ant"])
def test_every_mujoco_task_starts_and_steps_alike_from_a_seed(env):
    cfg = composed((f"env={env}", "tracker=none"))
    assert cfg.env.normalize_observations and cfg.env.normalize_rewards
    copies = [build.build_env(cfg, 2) for _ in range(2)]
    actions = np.zeros((2, copies[0].action_box.size), np.float32)
    shown = [
        [each.reset(7), *(each.step(actions).observations for _ in range(5))] for each in copies
    ]
    assert np.array_equal(*shown)


def test_a_plastic_network_trains_no_encoder():
    words = ["algo=plasticity", "env=cartpole", "encoder=population", "encoder.learned=true"]
    (problem,) = problems([*words, "tracker=none"])
    assert subject(problem) == "encoder.learned=true"
