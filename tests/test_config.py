"""Every option composes, validates and builds; cells are named by what they are."""

import inspect
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import pytest
import torch
from hydra.utils import get_class
from omegaconf import OmegaConf, open_dict, read_write

from sdqn_lab import config
from sdqn_lab.agents.base import EnvSpec
from sdqn_lab.assembly import build
from sdqn_lab.config.plugins import PLUGINS
from sdqn_lab.config.schema import folder
from sdqn_lab.config.validation import env_spec
from sdqn_lab.envs.base import VectorEnv

CONF = config.conf_dir()
OPEN = ("neuron", "surrogate", "norm", "encoder", "readout", "network")
FAMILIES = ("pong", "minatar_breakout", "cartpole")


def options(group: str) -> list[str]:
    return sorted(f.stem for f in (CONF / group).glob("*.yaml") if not f.stem.startswith("_"))


OPEN_OPTIONS = [(group, option) for group in OPEN for option in options(group)]


def built(*overrides: str):
    cfg = config.compose(list(overrides))
    env = env_spec(cfg)
    return build.build_network(cfg, env.observation_shape, env.num_actions)


@pytest.mark.parametrize(("group", "option"), OPEN_OPTIONS)
def test_every_option_names_a_class_and_its_arguments(group, option):
    node = OmegaConf.load(CONF / group / f"{option}.yaml")
    parameters = inspect.signature(get_class(node._target_)).parameters
    assert set(node) - {"_target_"} <= set(parameters)


WITHOUT_OPTION = {
    "network.Torso",  # what all are derived from; it has no layers
    "network.ConvolutionalTorso",  # its convolutions are arguments that no config can write
    "tracker.Upload",  # for the command that uploads a run when it is over
    "env.VectorEnv",  # the interface
    "env.Watchable",  # the interface of games with pictures
    "env.Bandit",
    "env.Gridworld",
    "env.Normalized",  # around one of the others
    "env.OneHot",  # games that `Classic` makes by their ids
    "env.Serial",  # the loop over copies of a game that is handed to it
}


def is_kind(cls: type, base: type) -> bool:
    """Whether a group may name the class; `VectorEnv` cannot be asked by `issubclass`."""
    if base is VectorEnv:
        return all(hasattr(cls, method) for method in ("reset", "step", "close"))
    return issubclass(cls, base)


@pytest.mark.parametrize("group", PLUGINS)
def test_every_class_of_a_group_has_its_option(group):
    nodes = map(OmegaConf.load, (CONF / group).glob("*.yaml"))
    targets = {node._target_.rpartition(".")[2] for node in nodes if "_target_" in node}
    package = import_module(PLUGINS[group].__module__.rpartition(".")[0])
    classes = {
        name
        for found in iter_modules(package.__path__, f"{package.__name__}.")
        for name, cls in inspect.getmembers(import_module(found.name), inspect.isclass)
        if cls.__module__ == found.name and not name.startswith("_")
        if is_kind(cls, PLUGINS[group]) and not inspect.isabstract(cls)
    }
    excepted = {name for name in classes if f"{group}.{name}" in WITHOUT_OPTION}
    assert classes - excepted == targets


@pytest.mark.parametrize(("group", "option"), [g for g in OPEN_OPTIONS if g[0] != "network"])
def test_every_option_gives_values_for_every_action(group, option):
    # Differences between frames need a stack of them, populations a vector.
    others = {"delta": ("pong", (4, 84, 84), 6), "population": ("cartpole", (4,), 2)}
    env, shape, actions = others.get(option, ("minatar_breakout", (4, 10, 10), 6))
    network = built(f"{group}={option}", f"env={env}", "time_window=4")
    observations = torch.randint(0, 2, (3, *shape), dtype=torch.uint8)
    assert network(observations).shape == (3, actions)


@pytest.mark.parametrize("env", FAMILIES)
@pytest.mark.parametrize("experiment", options("experiment"))
def test_every_experiment_combines_with_every_family(env, experiment):
    cfg = config.compose([f"env={env}", f"experiment={experiment}"])
    assert cfg.choices.experiment == experiment


@pytest.mark.parametrize("experiment", options("experiment"))
def test_experiments_set_ablated_axes_only(experiment):
    node = OmegaConf.load(CONF / "experiment" / f"{experiment}.yaml")
    assert set(node) == {"defaults"}
    overridden = {next(iter(entry)).removeprefix("override /") for entry in node.defaults}
    # The algorithm too, where the arm is named after it.
    assert overridden <= {"neuron", "surrogate", "norm", "encoder", "readout", "algo"}


@pytest.mark.parametrize("env", FAMILIES)
@pytest.mark.parametrize("budget", options("budget"))
def test_every_budget_fits_every_family(env, budget):
    cfg = config.compose([f"env={env}", f"budget={budget}"])
    assert cfg.algo.replay_start_steps < cfg.budget.steps
    assert cfg.algo.iteration_steps <= cfg.budget.steps


@pytest.mark.parametrize("env", FAMILIES)
@pytest.mark.parametrize("budget", options("budget"))
@pytest.mark.parametrize("algo", options("algo"))
def test_every_algorithm_fits_every_budget_and_family_and_updates(algo, budget, env):
    cfg = config.compose([f"algo={algo}", f"env={env}", f"budget={budget}"])
    assert cfg.algo.iteration_steps <= cfg.budget.steps
    arguments = build.algo_arguments(cfg)
    assert build.agent_class(cfg).updates_made(arguments, cfg.budget.steps) >= 5


@pytest.mark.parametrize("env", FAMILIES)
def test_pqn_normalizes_the_hidden_layer_unless_told_otherwise(env):
    cfg = config.compose([f"env={env}", "experiment=pl_pqn"])
    assert cfg.network.normalize_hidden
    assert not config.compose([f"env={env}"]).network.normalize_hidden
    asked = ["experiment=pl_pqn", "network.normalize_hidden=false"]
    assert not config.compose([f"env={env}", *asked]).network.normalize_hidden


@pytest.mark.parametrize(
    ("env", "rollout", "steps_per_update", "rest"),
    [
        # CleanRL, CleanRL's pqn.py, and the authors' MinAtar, each for a run of its own length.
        ("pong", (8, 128), 64, {"learning_rate": 2.5e-4, "epsilon_end": 0.01}),
        ("acrobot", (4, 128), 32, {"epsilon_end": 0.05}),
        ("minatar_asterix", (128, 32), 64, {"learning_rate": 5e-4, "epsilon_end": 0.05}),
    ],
)
def test_the_published_settings_of_pqn(env, rollout, steps_per_update, rest):
    cfg = config.compose([f"env={env}", "algo=pqn"])
    algo = cfg.algo
    assert (algo.num_envs, algo.rollout_steps) == rollout
    per_update = algo.num_envs * algo.rollout_steps / (algo.epochs * algo.minibatches)
    assert per_update == steps_per_update
    assert (algo.gamma, algo.q_lambda, algo.max_grad_norm) == (0.99, 0.65, 10.0)
    assert algo.learning_rate_decay_steps == cfg.budget.steps
    assert {key: algo[key] for key in rest} == rest


@pytest.mark.parametrize("env", FAMILIES)
def test_qr_dqn_takes_the_settings_of_dqn_where_none_are_published(env):
    cfg = config.compose([f"env={env}", "algo=qr_dqn"])
    algo, plain = cfg.algo, config.compose([f"env={env}", "algo=dqn"]).algo
    assert (algo.kappa, algo.double, algo.adam_eps) == (1.0, False, 0.01 / 32)
    differs = {key for key in plain if key not in algo or algo[key] != plain[key]}
    expected = {"_target_", "loss", "adam_eps"}
    if cfg.env.family == "atari":
        assert (algo.quantiles, algo.learning_rate, algo.epsilon_end) == (200, 5e-5, 0.01)
        assert algo.target_update_every_updates * 16 == 40_000  # in frames
        expected |= {"learning_rate", "epsilon_end", "target_update_every_updates"}
    assert differs == expected


PPO = {"epochs": 4, "gae_lambda": 0.95, "value_coef": 0.5, "entropy_coef": 0.01}
PPO |= {"max_grad_norm": 0.5, "adam_eps": 1e-5, "clip_values": True, "normalize_advantages": True}
A2C = {"rollout_steps": 5, "gae_lambda": 1.0, "gamma": 0.99, "learning_rate": 7e-4}
A2C |= {"rmsprop_eps": 1e-5, "max_grad_norm": 0.5, "learning_rate_decay_steps": None}
A2C |= {"normalize_advantages": False}


@pytest.mark.parametrize(
    ("algo", "env", "published"),
    [
        # CleanRL's ppo_atari.py and ppo.py, and gymnax's settings for MinAtar.
        ("ppo", "pong", {**PPO, "num_envs": 8, "minibatches": 4, "clip_ratio": 0.1}),
        ("ppo", "pong", {"gamma": 0.99, "learning_rate": 2.5e-4, "shared_trunk": True}),
        ("ppo", "acrobot", {**PPO, "num_envs": 4, "minibatches": 4, "clip_ratio": 0.2}),
        ("ppo", "acrobot", {"gamma": 0.99, "learning_rate": 2.5e-4, "shared_trunk": False}),
        ("ppo", "minatar_asterix", {**PPO, "num_envs": 64, "minibatches": 8, "clip_ratio": 0.2}),
        ("ppo", "minatar_asterix", {"gamma": 0.999, "learning_rate": 5e-4}),
        # Stable-Baselines3.
        ("a2c", "pong", {**A2C, "num_envs": 16, "value_coef": 0.25, "entropy_coef": 0.01}),
        ("a2c", "acrobot", {**A2C, "num_envs": 8, "value_coef": 0.5, "entropy_coef": 0.0}),
        # Norse.
        ("reinforce", "cartpole", {"learning_rate": 1e-3, "normalize_returns": True}),
    ],
)
def test_the_published_settings_of_policy_gradients(algo, env, published):
    found = config.compose([f"env={env}", f"algo={algo}"]).algo
    assert {key: found[key] for key in published} == published


@pytest.mark.parametrize(("env", "decays"), [("pong", True), ("minatar_asterix", False)])
def test_the_learning_rate_of_ppo_falls_over_the_run_where_its_source_says_so(env, decays):
    cfg = config.compose([f"env={env}", "algo=ppo", "budget.steps=123456"])
    assert cfg.algo.learning_rate_decay_steps == (123_456 if decays else None)


@pytest.mark.parametrize("algo", ["reinforce", "a2c", "ppo"])
def test_spiking_arms_of_policy_gradients_have_a_norm_at_every_layer(algo):
    cfg = config.compose(["env=cartpole", f"experiment=pl_{algo}"])
    assert (cfg.choices.neuron, cfg.choices.norm) == ("lif", "popnorm")
    assert cfg.network.normalize_hidden
    baseline = config.compose(["env=cartpole", f"experiment={algo}"])
    assert (baseline.choices.neuron, baseline.choices.norm) == ("relu", "none")
    assert baseline.algo == cfg.algo


@pytest.mark.parametrize(
    ("env", "steps"), [("pong", 10_000_000), ("minatar_asterix", 5_000_000), ("acrobot", 200_000)]
)
def test_by_default_a_cell_has_the_published_size(env, steps):
    assert config.compose([f"env={env}"]).budget.steps == steps


@pytest.mark.parametrize(("env", "iterations"), [("pong", 5), ("minatar_breakout", 5)])
def test_a_short_run_has_at_least_five_iterations(env, iterations):
    cfg = config.compose([f"env={env}", "budget=short"])
    assert cfg.budget.steps / cfg.algo.iteration_steps >= iterations


def test_the_default_is_the_published_network():
    network = built()
    assert sum(p.numel() for p in network.parameters()) == 1_729_440


def test_the_published_training_settings():
    algo = config.compose([]).algo
    assert (algo.double, algo.n_step, algo.loss, algo.optimizer) == (True, 3, "mse", "adamw")
    assert (algo.learning_rate, algo.gamma, algo.batch_size) == (1e-4, 0.99, 32)
    assert (algo.num_envs, algo.learn_every_steps) == (10, 10)
    assert (algo.target_update_every_updates, algo.replay_capacity_steps) == (500, 100_000)
    assert (algo.epsilon_begin, algo.epsilon_end, algo.epsilon_decay_steps) == (1.0, 0.05, 10**6)


def test_games_are_generated_and_the_four_that_end_the_process_are_not_among_them():
    for game in ("pong", "tetris", "space_invaders"):
        assert config.compose([f"env={game}"]).env.id == game
    for game in ("combat", "joust", "maze_craze", "warlords"):
        with pytest.raises(config.ConfigError, match=f"env={game}: a game for two"):
            config.compose([f"env={game}"])


def name(*overrides: str) -> str:
    cfg = config.compose(list(overrides))
    return config.cell_name(cfg, cfg.choices)


def test_a_cell_is_named_by_its_axes_and_seed():
    readable = "minatar_breakout_if_batchnorm_atan_T8_seed3_"
    assert name(
        "env=minatar_breakout", "neuron=if", "norm=batchnorm", "time_window=8", "seed=3"
    ).startswith(readable)


@pytest.mark.parametrize(
    "override",
    [
        *("seed=1", "algo.gamma=0.98", "neuron.tau=3", "budget.steps=999000", "norm.eps=1e-4"),
        "neuron.learn_threshold=layer",
    ],
)
def test_any_key_that_changes_a_number_changes_the_name(override):
    assert name(override) != name()


@pytest.mark.parametrize(
    "override",
    [
        "device=cpu",
        "health=refuse",
        "threads=1",
        "keep_state=true",
        "neuron.tau=2",
        "time_window_eval=16",
    ],
)
def test_keys_that_change_no_number_leave_the_name(override):
    assert name(override) == name()


def test_a_cell_from_before_thresholds_could_be_learned_keeps_its_name():
    cfg = config.compose([])
    older = cfg.copy()
    with read_write(older), open_dict(older):
        older.neuron.pop("learn_threshold")
    assert config.cell_name(older, older.choices) == config.cell_name(cfg, cfg.choices)


@pytest.mark.parametrize("override", ["time_window=4", "surrogate=sigmoid", "surrogate.alpha=3"])
def test_without_time_window_and_surrogate_mean_nothing(override):
    assert name("neuron=relu", override) == name("neuron=relu")
    assert name(override) != name()


def test_a_sweep_is_named_by_its_file_or_by_its_grid():
    choices = {"sweep": None}
    grid = ["norm=popnorm,none", "env=pong,breakout"]
    named = config.sweep_name(grid, choices)
    assert named.startswith("norm_env_")
    assert named == config.sweep_name(list(reversed(grid)), choices).replace("env_norm", "norm_env")
    assert named == config.sweep_name([*grid, "device=cpu"], choices)
    assert named != config.sweep_name([*grid, "seed=1"], choices)
    assert config.sweep_name(grid, {"sweep": "quickstart"}) == "quickstart"


def test_a_grid_expands_to_the_product():
    cells = config.expand(["norm=popnorm,none", "env=pong,breakout", "seed=range(3)"])
    assert len(cells) == 12
    assert ["norm=none", "env=pong", "seed=2"] in cells


def test_compose_inside_a_hydra_job_leaves_hydras_state_alone():
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    with initialize_config_dir(str(CONF), version_base="1.3"):
        outer = GlobalHydra.instance().hydra
        config.compose(["env=pong"])
        assert GlobalHydra.instance().hydra is outer


@pytest.mark.parametrize("sweep", sorted(f.stem for f in Path(folder("sweeps")).glob("*.yaml")))
def test_every_sweep_file_says_its_question_and_cost_first(sweep):
    lines = (folder("sweeps") / f"{sweep}.yaml").read_text().splitlines()
    assert lines[0].startswith("# Question: ")
    assert any(line.startswith("# Cost: ") for line in lines[:4])


def test_weights_are_drawn_from_the_seed_alone():
    def weights(seed):
        cfg = config.compose(["env=minatar_breakout", f"seed={seed}"])
        return build.initial_network(cfg, EnvSpec((4, 10, 10), 6)).state_dict()

    first = weights(0)
    torch.rand(3)
    again, other = weights(0), weights(1)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["torso.conv1.linear.weight"], other["torso.conv1.linear.weight"])
