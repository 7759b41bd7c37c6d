"""Gymnasium's environments behind the vector protocol, against gymnasium.make."""

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete

from sdqn_lab.checks.refused import Refused
from sdqn_lab.envs.base import ActionBox, EnvironmentFailed, environment_seeds, random_actions
from sdqn_lab.envs.classic import Classic
from tests.refusals import refuses


@pytest.mark.parametrize("id", ["CartPole-v1", "Acrobot-v1", "MountainCar-v0"])
def test_step_by_step_equal_to_gymnasium(id, protocol):
    env = Classic(id, 2, protocol("plain"))
    copies = [gymnasium.make(id) for _ in range(2)]
    first = [
        copy.reset(seed=seed)[0] for copy, seed in zip(copies, environment_seeds(9, 2), strict=True)
    ]
    assert np.array_equal(env.reset(9), first)
    over, ended = np.zeros(2, bool), 0
    for actions in np.random.default_rng(1).integers(env.num_actions, size=(620, 2)):
        step = env.step(actions)
        for row, copy in enumerate(copies):
            expected = (
                (copy.reset()[0], 0.0, False, False)
                if over[row]
                else copy.step(int(actions[row]))[:4]
            )
            assert np.array_equal(step.observations[row], expected[0])
            assert step.rewards[row] == expected[1]
            assert (step.terminated[row], step.truncated[row]) == expected[2:]
        assert np.array_equal(step.started, over)
        over = step.terminated | step.truncated
        ended += over.sum()
    assert ended >= 2


class Numbered(gymnasium.Env):
    """Shows a constant of the given space; rewards an action with itself."""

    def __init__(self, observation_space, action_space=None):
        self.observation_space = observation_space
        self.action_space = action_space or Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.picture(), {}

    def step(self, action):
        return self.picture(), float(action), False, False, {}

    def picture(self):
        space = self.observation_space
        return np.arange(np.prod(space.shape)).reshape(space.shape).astype(space.dtype)


@pytest.fixture
def register(monkeypatch):
    def register(**spaces):
        monkeypatch.setitem(gymnasium.registry, "Numbered-v0", None)
        gymnasium.registry.pop("Numbered-v0")
        gymnasium.register("Numbered-v0", entry_point=lambda: Numbered(**spaces))
        return "Numbered-v0"

    return register


@pytest.mark.parametrize(
    ("shape", "handed_over"),
    [((6, 5, 2), (2, 6, 5)), ((2, 6, 5), (2, 6, 5)), ((6, 5), (1, 6, 5))],
)
def test_images_are_handed_over_channels_first_as_uint8(shape, handed_over, register, protocol):
    env = Classic(register(observation_space=Box(0, 255, shape, np.uint8)), 1, protocol("plain"))
    assert env.observation_shape == handed_over
    assert env.observation_dtype == np.uint8
    picture = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    expected = np.moveaxis(picture, 2, 0) if shape[-1] == 2 else picture.reshape(handed_over)
    assert np.array_equal(env.reset(0)[0], expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.uint8])
def test_vectors_are_handed_over_as_float32(dtype, register, protocol):
    env = Classic(register(observation_space=Box(0, 9, (5,), dtype)), 2, protocol("plain"))
    observations = env.reset(0)
    assert observations.dtype == np.float32
    assert observations.tolist() == [[0, 1, 2, 3, 4]] * 2


def test_actions_that_do_not_start_at_zero_are_shifted(register, protocol):
    space = Box(0, 9, (5,), np.float32)
    id = register(observation_space=space, action_space=Discrete(3, start=-1))
    env = Classic(id, 3, protocol("plain"))
    env.reset(0)
    assert env.step(np.array([0, 1, 2])).rewards.tolist() == [-1, 0, 1]


def test_the_module_of_an_id_is_imported(tmp_path, monkeypatch, protocol):
    (tmp_path / "my_lab_cart.py").write_text(
        "import gymnasium\n"
        "gymnasium.register('MyCart-v0',"
        " entry_point='gymnasium.envs.classic_control:CartPoleEnv')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert Classic("my_lab_cart:MyCart-v0", 1, protocol("plain")).observation_shape == (4,)
    gymnasium.registry.pop("MyCart-v0")


@pytest.mark.parametrize(
    "id", ["CartPol-v1", "CartPole-v99", "no_such_module:Cart-v0", "nospace/Cart-v0", "Cart Pole"]
)
def test_an_environment_that_cannot_be_made_is_refused_in_one_line(id, protocol):
    with refuses("id", id, "env.id=module:Id-v0"):
        Classic(id, 1, protocol("plain"))


@pytest.mark.parametrize(
    ("space", "named"),
    [
        (Dict({"a": Discrete(2)}), "Dict"),
        (Discrete(4), "Discrete"),
        (Box(0, 1, (4, 4, 3), np.float32), "Box(4, 4, 3) float32"),
        (Box(0, 255, (2, 4, 4, 3), np.uint8), "Box(2, 4, 4, 3) uint8"),
        (Box(0, 1, (), np.float32), "Box float32"),
    ],
)
def test_observations_that_no_network_takes_are_refused(space, named, register, protocol):
    id = register(observation_space=space)
    with refuses("id", id, rule=named):
        Classic(id, 1, protocol("plain"))


@pytest.mark.parametrize("id", ["Pendulum-v1", "MountainCarContinuous-v0"])
def test_continuous_play_is_equal_to_gymnasiums_own(id, protocol):
    env, copy = Classic(id, 1, protocol("plain")), gymnasium.make(id)
    assert env.action_box == ActionBox(
        *(tuple(bound.tolist()) for bound in (copy.action_space.low, copy.action_space.high))
    )
    assert np.array_equal(env.reset(9)[0], copy.reset(seed=environment_seeds(9, 1)[0])[0])
    rng, over = np.random.default_rng(1), False
    for _ in range(250):
        action = random_actions(env.action_box, 1, rng)
        step = env.step(action)
        expected = (copy.reset()[0], 0.0, False, False) if over else copy.step(action[0])[:4]
        assert np.array_equal(step.observations[0], expected[0])
        assert step.rewards[0] == np.float32(expected[1])
        over = bool(step.truncated[0] or step.terminated[0])
        assert over == (expected[2] or expected[3])


class Echoing(Numbered):
    """Shows and rewards nothing; remembers the last action."""

    last = None

    def step(self, action):
        Echoing.last = action
        return self.picture(), 0.0, False, False, {}


@pytest.fixture
def echoing(monkeypatch):
    def register(actions):
        gymnasium.registry.pop("Echoing-v0", None)
        space = Box(0, 9, (5,), np.float32)
        gymnasium.register("Echoing-v0", entry_point=lambda: Echoing(space, actions))
        return "Echoing-v0"

    yield register
    gymnasium.registry.pop("Echoing-v0")


def test_actions_beyond_their_bounds_are_played_as_the_bounds(echoing, protocol):
    bounds = np.array([-0.1, -2.0]), np.array([0.1, np.inf])
    env = Classic(echoing(Box(*bounds, dtype=np.float64)), 1, protocol("plain"))
    env.reset(0)
    for given, played in [((0.05, 7.0), (0.05, 7.0)), ((-9.0, -9.0), (-0.1, -2.0))]:
        env.step(np.array([given]))
        assert Echoing.last.tolist() == list(played)
        assert Echoing.last.dtype == np.float64


def test_a_box_of_any_shape_is_a_vector_here_and_has_its_own_shape_there(echoing, protocol):
    env = Classic(echoing(Box(-1, 1, (2, 3), np.float32)), 2, protocol("plain"))
    assert (env.num_actions, env.action_box.size) == (6, 6)
    env.reset(0)
    env.step(np.tile(np.linspace(0, 0.5, 6, dtype=np.float32), (2, 1)))
    assert Echoing.last.tolist() == np.linspace(0, 0.5, 6, dtype=np.float32).reshape(2, 3).tolist()


@pytest.mark.parametrize(
    "space", [MultiDiscrete([2, 3]), MultiBinary(2), Box(0, 9, (2,), np.int64)], ids=str
)
def test_actions_of_other_kinds_are_refused(space, echoing, protocol):
    with refuses("id", echoing(space), "wrapper", rule="Discrete actions or a Box of floats"):
        Classic("Echoing-v0", 1, protocol("plain"))


@pytest.mark.parametrize("wrong", [np.full((1, 1), np.nan), np.zeros((2, 1)), np.zeros(1)])
def test_what_is_no_action_of_the_box_is_refused(wrong, protocol):
    env = Classic("Pendulum-v1", 1, protocol("plain"))
    env.reset(0)
    with pytest.raises(Refused, match="actions"):
        env.step(wrong)


class Faulty(gymnasium.Env):
    """Announces vectors of 4; its third step does what it was made for."""

    observation_space, action_space = Box(-9, 9, (4,), np.float32), Discrete(2)

    def __init__(self, fault):
        self.fault = fault

    def reset(self, *, seed=None, options=None):
        self.steps = 0
        return np.zeros(1 if self.fault == "shape" else 4, np.float32), {}

    def step(self, action):
        self.steps += 1
        late = self.steps > 2
        if late and self.fault == "raises":
            raise ZeroDivisionError("division by zero")
        bad = np.nan if late else 0.0
        seen = np.full(4, bad if self.fault == "observation" else 0.0, np.float32)
        return seen, bad if self.fault == "reward" else 1.0, False, False, {}


@pytest.fixture
def faulty(monkeypatch):
    def register(fault):
        gymnasium.register("Faulty-v0", entry_point=lambda: Faulty(fault))
        return "Faulty-v0"

    yield register
    gymnasium.registry.pop("Faulty-v0")


@pytest.mark.parametrize(
    ("fault", "named"),
    [("raises", "ZeroDivisionError"), ("observation", "observation"), ("reward", "reward")],
)
def test_what_an_environment_does_wrong_is_said_with_its_name(fault, named, faulty, protocol):
    env = Classic(faulty(fault), 2, protocol("plain"))
    env.reset(0)
    for _ in range(2):
        env.step(np.zeros(2, int))
    with pytest.raises(EnvironmentFailed, match=f"Faulty-v0 .*{named}"):
        env.step(np.zeros(2, int))


def test_an_observation_of_another_shape_than_announced_is_refused_and_not_stretched(
    faulty, protocol
):
    with refuses("id", faulty("shape"), rule="of shape (1,), announced (4,)"):
        Classic("Faulty-v0", 1, protocol("plain"))
