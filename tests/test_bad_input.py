"""A wrong command is answered at once: a clear line per mistake, and nothing is left behind.

Most rows say what is refused and what to write instead, as data; the rest, through the command,
pins the form of the printed line.
"""

import os
import resource
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from sdqn_lab import config, run
from sdqn_lab.config import directories
from sdqn_lab.config.planning import plan_cells
from sdqn_lab.envs.atari import REFUSED
from sdqn_lab.runs.directory import RunDirectory
from sdqn_lab.training.resume import resumed
from tests.commands import Answer, complains, printed, refused
from tests.launching.sweeps import KEPT
from tests.refusals import listed, meant, problems, remedy, subject

PRINTED = [
    ("foo", "foo", "key=value"),
    ("a=b=c", "a=b=c", "key=value"),
    ("budget.steps=${foo", "budget.steps=${foo", "key=value"),
    ("=x", "=x", "key=value"),
    ("+seed=3", "+seed=3", "seed=3"),
    ("+experiment=pl_sdqn", "+experiment=pl_sdqn", "experiment=pl_sdqn"),
    ("++norm=none", "++norm=none", "norm=none"),
    ("~norm", "~norm", "norm=OPTION"),
    ("~algo.gamma", "~algo.gamma", "algo.gamma=VALUE"),
    ("norm=null", "norm=null", "norm=OPTION with one of: batchnorm, none, popnorm"),
    ("norm=", "norm=", ""),
    ("norm=[popnorm,none]", "norm=[popnorm,none]", "-m norm=popnorm,none to run each"),
    ("algo={gamma:0.9}", "algo={gamma:0.9}", "-m algo={gamma:0.9} to run each"),
    ("norm=popnorm,none", "norm=popnorm,none", "-m before the overrides"),
    ("seed=range(3)", "seed=range(3)", "-m before the overrides"),
    ("hydra.run.dir=${foo}", "hydra.run.dir", "hydra.run.dir=DIR"),
    ("--foo", "--foo", "--help for those that are there"),
    ("--config-name=other", "--config-name", ""),
    ("--config-dir=other", "--config-dir other", "--config-dir DIR"),
    ("neuron.tauu=3", "neuron.tauu=3", ""),
    ("algo.gamma=true", "algo.gamma=true", "algo.gamma=0.99"),
    ("network.channels=[32,64]", "network.channels=[32,64]", "network.channels=[32,64,64]"),
    ("device=cuda:x", "device=cuda:x", "device=auto"),
    ("network=mlp env=pong", "network=mlp", "network=nature or network=minatar"),
    ("env=gymnasium", "env.id", "env.id=VALUE"),
]


@pytest.mark.parametrize(("given", "what", "instead"), PRINTED, ids=[row[0] for row in PRINTED])
def test_a_wrong_command_is_answered_with_one_clear_line(single, given, what, instead):
    printed(single(*given.split()), what, instead)


MISSPELT = [
    ("nuron=lif", "neuron", "surrogate"),
    ("time_windw=4", "time_window", "neuron"),
    ("algo.gama=0.9", "gamma", "iteration_steps"),
    ("neuron.tauu=3", "tau", "v_threshold"),
    ("neuron=if neuron.tau=2", "", "v_threshold"),
    ("norm.over_time=true", "", "eps"),
    ("env=pongg", "pong", "space_invaders"),
    ("hydra.foo=1", "", "run"),
    ("hydra/launcher=slurmm", "slurm", "basic"),
    ("norm@x=none", "norm", "readout"),
    ("+foo=bar", "", "neuron"),
    ("++foo=bar", "", "neuron"),
    ("+neuron.foo=1", "", "tau"),
    ("norm=3", "", "popnorm"),
    ("experiment=null", "", "pl_sdqn"),
    # And an option of each group.
    ("neuron=liff", "lif", "plif"),
    ("surrogate=attan", "atan", "sigmoid"),
    ("norm=popnrm", "popnorm", "batchnorm"),
    ("encoder=dirct", "direct", "poisson"),
    ("readout=mean_spike", "mean_spikes", "max_membrane"),
    ("network=natur", "nature", "mlp"),
    ("env=minatar_breakot", "minatar_breakout", "cartpole"),
    ("protocol=machdo", "machado", "plain"),
    ("algo=dubble_dqn", "double_dqn", "braincog"),
    ("budget=shrt", "short", "full"),
    ("tracker=wandbb", "wandb", "none"),
    ("experiment=pl_sdq", "pl_sdqn", "dqn"),
    ("sweep=quickstrt", "quickstart", "norm"),
]


@pytest.mark.parametrize(("given", "name", "there"), MISSPELT, ids=[row[0] for row in MISSPELT])
def test_a_misspelt_name_is_answered_with_what_was_meant_and_what_there_is(given, name, there):
    (problem,) = problems(given.split())
    assert subject(problem) == given.split()[-1].lstrip("+")
    assert name in meant(problem) or not name
    assert there in listed(problem) or there in remedy(problem)


def test_an_option_of_each_group_is_misspelt_above():
    assert set(config.GROUPS) <= {given.partition("=")[0] for given, _, _ in MISSPELT}


WRONG_TYPES = [
    ("algo.gamma=abc", "", "algo.gamma=0.99"),
    ("algo.gamma=[0.9]", "", "algo.gamma=0.99"),
    ("algo.gamma=", "", "algo.gamma=0.99"),
    ("algo.gamma=${foo}", "foo", "algo.gamma=VALUE"),
    ("algo=plasticity algo.gamma=${foo}", "foo", "algo.gamma=VALUE"),
    ("budget.steps=1e7", "", "budget.steps=10000000"),
    ("budget.steps=10.5", "", "budget.steps=10000000"),
    ("budget.steps=true", "", "budget.steps=10000000"),
    ("time_window=2.5", "", "time_window=16"),
    ("time_window=null", "", "time_window=16"),
    ("time_window_eval=x", "null", "time_window_eval=VALUE"),
    ("seed=abc", "", "seed=0"),
    ("keep_state=maybe", "", "keep_state=false"),
    ("env.sizes=1", "", "env.sizes=VALUE"),
    ("neuron.tau=abc", "", "neuron.tau=2.0"),
    ("+algo.seed=1", "num_envs", ""),
    ("+norm.v_threshold=5", "eps", ""),
    ("algo._target_=sdqn_lab.agents.base.Agent", "Agent", ""),
    (
        "algo=null",
        "",
        "algo=OPTION with one of: a2c, braincog, double_dqn, dqn, plasticity, ppo, pqn, "
        "qr_dqn, reinforce",
    ),
    ("neuron.tau=true", "", "neuron.tau=2.0"),
    ("neuron.tau=[2]", "", "neuron.tau=2.0"),
    ("neuron.tau=null", "", "neuron.tau=2.0"),
    ("neuron.detach_reset=1", "", "neuron.detach_reset=true"),
    ("neuron.reset=1", "", "neuron.reset=hard"),
    ("network.channels=32", "", "network.channels=[32,64,64]"),
    ("neuron._target_=os.system", "os", "neuron._target_=MODULE.CLASS"),
    ("neuron._target_=sdqn_lab.spiking.norm.PopNorm", "sdqn_lab.spiking.neuron.Neuron", ""),
    ("env._target_=nowhere.Env", "no package nowhere", "env._target_=MODULE.CLASS"),
]

OUT_OF_RANGE = [
    ("time_window=-1", ">= 1", "time_window=1 or more"),
    ("time_window=0", ">= 1", "time_window=1 or more"),
    ("time_window_eval=0", ">= 1", "time_window_eval=1 or more"),
    ("seed=-1", "[0, ", "seed=0"),
    ("seed=99999999999999999999", "[0, ", "seed=0"),
    ("threads=0", ">= 1", "threads=1 or more"),
    ("health=maybe", "warn, refuse, off", "health=warn"),
    ("algo.gamma=1.5", "[0, 1]", "algo.gamma=0.99"),
    ("algo.learning_rate=nan", "finite", "algo.learning_rate=0.0001"),
    ("algo.learning_rate=inf", "finite", "algo.learning_rate=0.0001"),
    ("algo.max_grad_norm=0", "> 0", "algo.max_grad_norm=null"),
    ("algo.loss=l2", "mse, huber", "algo.loss=mse"),
    ("algo.target_ema=0", "(0, 1]", "algo.target_ema=1.0"),
    ("checkpoint_every_minutes=0.0", "> 0", "checkpoint_every_minutes=1"),
    ("neuron.tau=0.5", ">= 1", "neuron.tau=2.0"),
    ("neuron=plif neuron.tau=1", "> 1", "neuron.tau=2.0"),
    ("neuron.learn_threshold=unit", "false, layer or channel", "neuron.learn_threshold=false"),
    ("neuron.learn_threshold=true", "false, layer or channel", "neuron.learn_threshold=false"),
    ("neuron=alif neuron.tau_adapt=0.5", ">= 1", "neuron.tau_adapt=8.0"),
    ("neuron=alif neuron.beta=-1", ">= 0", "neuron.beta=0.5"),
    ("surrogate.alpha=0", "> 0", "surrogate.alpha=2.0"),
    ("surrogate.alpha=-1", "> 0", "surrogate.alpha=2.0"),
    ("surrogate.alpha=nan", "finite", "surrogate.alpha=2.0"),
    ("surrogate.alpha=inf", "finite", "surrogate.alpha=2.0"),
    ("neuron.v_threshold=0", "> 0", "neuron.v_threshold=1.0"),
    ("neuron.v_reset=1", "< v_threshold (1.0)", "neuron.v_reset=0.0"),
    ("neuron.reset=soft neuron.v_reset=0.5", "reset=soft", "neuron.v_reset=0.0"),
    ("neuron.reset=sft", "hard or soft", "neuron.reset=hard"),
    ("readout=mean_membrane readout.tau=0.5", ">= 1", "readout.tau=2.0"),
    ("norm.eps=-1", ">= 0", "norm.eps=1e-05"),
    ("norm=batchnorm norm.momentum=0", "(0, 1]", "norm.momentum=0.1"),
    ("network.channels=[]", "3", "network.channels=[32,64,64]"),
    ("network.channels=[32,64,0]", ">= 1", "network.channels=[32,64,64]"),
    ("network.hidden=0", ">= 1", "network.hidden=512"),
    ("protocol.sticky_actions=2.0", "[0, 1)", "protocol.sticky_actions=0"),
    ("device=cuda", "0 CUDA", "device=cpu or device=auto"),
    ("device=cuda:7", "0 CUDA", "device=cpu or device=auto"),
    ("device=tpu", "cpu", "device=auto"),
]

CONTRADICTIONS = [
    ("algo.batch_size=200000", "algo.replay_capacity_steps=100000", "algo.batch_size=32"),
    (
        "algo.replay_start_steps=200000",
        "algo.replay_capacity_steps=100000",
        "algo.replay_start_steps=100000 or less",
    ),
    ("budget.steps=100", "algo.replay_start_steps=320", "budget.steps=321 or more"),
    (
        "algo.epsilon_begin=0.01 => algo.epsilon_end=0.05",
        "algo.epsilon_begin=0.01",
        "algo.epsilon_end=0.01 or less",
    ),
    (
        "algo.replay_start_steps=40 algo.replay_capacity_steps=100",
        "algo.num_envs=10, algo.n_step=3 and algo.batch_size=32",
        "algo.replay_capacity_steps=112 or more",
    ),
    (
        "env=cartpole algo=pqn algo.minibatches=300",
        "algo.rollout_steps=128 and algo.num_envs=4",
        "algo.minibatches=256 or less",
    ),
    (
        "env=cartpole algo=pqn budget.steps=512",
        "algo.rollout_steps=128 and algo.num_envs=4",
        "budget.steps=513 or more",
    ),
    (
        "env=cartpole algo=pqn algo.learning_rate_decay_steps=1000",
        "budget.steps=200000",
        "algo.learning_rate_decay_steps=200000 or more, or null",
    ),
    (
        "env=cartpole algo=ppo algo.minibatches=300",
        "algo.rollout_steps=128 and algo.num_envs=4",
        "algo.minibatches=256 or less",
    ),
    (
        "env=cartpole algo=a2c budget.steps=40",
        "algo.rollout_steps=5 and algo.num_envs=8",
        "budget.steps=41 or more",
    ),
    (
        "env=cartpole algo=ppo algo.learning_rate_decay_steps=1000",
        "budget.steps=200000",
        "algo.learning_rate_decay_steps=200000 or more, or null",
    ),
    ("env=cartpole algo=ppo algo.clip_ratio=0", "must be > 0", "algo.clip_ratio=0.2"),
    ("env=cartpole algo=ppo algo.gae_lambda=1.5", "must lie in [0, 1]", "algo.gae_lambda=0.95"),
    ("env=cartpole algo=a2c algo.entropy_coef=-0.1", "must be >= 0", "algo.entropy_coef=0.0"),
    ("env=cartpole algo=ppo algo.shared_trunk=maybe", "true or false", "algo.shared_trunk=true"),
    ("env=bandit algo=plasticity backend=compiled", "not for algo=plasticity", "backend=auto"),
    (
        "env=bandit algo=plasticity norm=batchnorm",
        "running statistics are never taken",
        "norm=popnorm, or torso=RUN_DIR of a run that has them",
    ),
    (
        "env=bandit algo=plasticity algo.rule=r_max algo.tau_eligibility=0.4",
        ">= 1",
        "algo.tau_eligibility=25.0",
    ),
    (
        "env=cartpole algo=reinforce neuron=bernoulli encoder=population encoder.learned=true "
        "algo.spike_gradient=score_function",
        "no gradient through spikes",
        "surrogate, or encoder.learned=false",
    ),
    ("norm=batchnorm env=cartpole algo.batch_size=1", "norm=batchnorm", "algo.batch_size=32"),
    (
        "norm=batchnorm network.normalize_hidden=true algo.batch_size=1",
        "norm=batchnorm",
        "algo.batch_size=32",
    ),
    ("neuron=relu readout=mean_membrane", "neuron=relu", "readout=mean_spikes"),
    ("neuron=relu env=minatar_breakout encoder=poisson", "neuron=relu", "encoder=direct"),
    (
        "env=cartpole encoder=poisson",
        "[0, 1]",
        "encoder=direct, or encoder=population",
    ),
    ("neuron=relu env=minatar_breakout encoder=latency", "neuron=relu", "encoder=direct"),
    (
        "env=cartpole encoder=latency",
        "env=cartpole",
        "encoder=direct, or encoder=population",
    ),
    ("env=minatar_breakout encoder=delta", "env=minatar_breakout", "encoder=direct"),
    ("env=pong encoder=delta encoder.frames=2", "stacks 4", "encoder.frames=4"),
    ("env=pong encoder=delta encoder.threshold=0", "must be > 0", "encoder.threshold=0.1"),
    ("encoder=latency encoder.threshold=2", "(0, 1]", "encoder.threshold=0.01"),
    ("neuron=relu readout=first_spike", "neuron=relu", "readout=mean_spikes"),
    ("neuron=bernoulli neuron.delta_u=0", "must be > 0", "neuron.delta_u=0.25"),
    (
        "env=bandit algo=plasticity readout=mean_spikes",
        "OutputSpikes",
        "readout=output_spikes",
    ),
    (
        "env=bandit algo=plasticity algo.rule=stdp",
        "score_function, r_max, mstdp, mstdpet",
        "algo.rule=score_function",
    ),
    (
        "env=bandit algo=plasticity algo.a_minus=-1",
        "algo.rule=score_function has no such argument",
        "algo.a_minus=null",
    ),
    (
        "env=bandit algo=plasticity algo.rule=mstdp algo.threshold_learning_rate=0.1",
        "algo.rule=mstdp",
        "algo.threshold_learning_rate=0",
    ),
    (
        "env=bandit algo=plasticity algo.modulator=dopamine",
        "td_error",
        "algo.modulator=reward_minus_mean",
    ),
    ("env=bandit algo=plasticity readout.units=0", ">= 1", "readout.units=1"),
    ("env=minatar_breakout encoder=population", "vector", "encoder=direct"),
    ("env=cartpole encoder=population encoder.low=3", "below high", "encoder.low=-3.0"),
    ("env=cartpole encoder=population encoder.low=[-1,-1]", "4", "encoder.low=-3.0"),
    ("neuron=bernoulli backend=fused", "Bernoulli", "backend=auto"),
    ("neuron=bernoulli env=cartpole algo=dqn backend=compiled", "Bernoulli", "backend=auto"),
    ("readout=discounted_spikes readout.tau=0.5", ">= 1", "readout.tau=2.0"),
    ("env=cartpole network=nature", "(4,)", "network=mlp"),
    ("env=minatar_breakout network=nature", "36x36", "network=minatar"),
    ("env=minatar_breakout protocol.noop_max=30", "MinAtar", "protocol=minatar"),
    (
        "env=pong protocol=minatar => protocol.difficulty_ramping=true",
        "Atari",
        "protocol=braincog",
    ),
    ("env=cartpole protocol=machado => protocol.sticky_actions=0.25", "0", "protocol=plain"),
    ("env=cartpole protocol=braincog => protocol.noop_max=30", "0", "protocol=plain"),
]

ANOTHER_ID = "env.id=CartPole-v1, or env.id=module:Id-v0 for one of your own"
GAMES = [
    *[(f"env={game}", "", "env=pong or another game for one") for game in REFUSED],
    ("env=gymnasium env.id=NoSuch-v0", "NoSuch", ANOTHER_ID),
    ("env=gymnasium env.id=no.module:Foo-v1", "no.module", ANOTHER_ID),
    (
        "env=gymnasium env.id=Pendulum-v1 => algo=dqn",
        "is a number",
        "algo=ppo, algo=a2c or algo=reinforce",
    ),
    ("env=pong env.id=pongg", "104", "env=pong"),
    ("env=pong env.id=combat", "", "env=pong"),
]

VALUES = [*WRONG_TYPES, *OUT_OF_RANGE, *CONTRADICTIONS, *GAMES]


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize(("given", "named", "instead"), VALUES, ids=[row[0] for row in VALUES])
def test_a_wrong_value_is_refused_with_the_key_and_what_to_write(given, named, instead):
    """The last override is wrong, or what stands behind the arrow."""
    overrides, arrow, wrong = given.partition(" => ")
    (problem,) = problems(overrides.split())
    assert subject(problem) == (wrong if arrow else overrides.split()[-1].lstrip("+"))
    assert named in problem.rule
    assert remedy(problem) == instead


def test_a_base_of_options_is_no_option():
    (problem,) = problems(["env=_atari"])
    assert subject(problem) == "env=_atari"
    assert remedy(problem).startswith("env=OPTION with one of: ")
    assert "space_invaders" in remedy(problem)


@pytest.mark.parametrize(
    "wrong",
    [
        "algo.gama=0.9 neuron.tauu=3 budget.steps=x seed=-1 norm.eps=-1",
        "foo ~norm",
        "seed=0,1 norm=none,popnorm",
        "time_window=0 neuron.tau=0 surrogate.alpha=0 device=tpu",
    ],
)
def test_all_mistakes_are_answered_at_once(single, wrong):
    refused(single(*wrong.split()), *(f"error: {each}: " for each in wrong.split()))


BAD_GRIDS = [
    ("norm=popnorm,nonee", "norm=nonee"),
    ("norm=popnorm,null", "norm=null"),
    ("env=pong,pongg", "env=pongg"),
    ("env=minatar_breakout,cartpole network=minatar", "network=minatar"),
    ("neuron=lif,relu readout=mean_membrane", "readout=mean_membrane"),
    ("time_window=range(0,4)", "time_window=0"),
    ("algo.gamma=0.9,abc", "algo.gamma=abc"),
    ("experiment=pl_sdqn,dqnn", "experiment=dqnn"),
]


@pytest.mark.parametrize(("given", "wrong"), BAD_GRIDS, ids=[given for given, _ in BAD_GRIDS])
def test_one_bad_cell_of_many_is_found(given, wrong):
    with pytest.raises(config.ConfigError) as error:
        plan_cells(Path("x"), config.expand(["tracker=none", *given.split()]))
    assert list(map(subject, error.value.problems)) == [wrong]


def test_one_bad_cell_keeps_the_good_ones_from_starting(multirun):
    printed(multirun("tracker=none", "norm=popnorm,none", "seed=0,-1"), "seed=-1", "seed=0")


BAD_FILES = [
    ("defaults: [override /norm: popnrm]", "experiment=mine: norm=popnrm", "popnorm", ""),
    ("defaults: [override /nrom: popnorm]", "experiment=mine", "'nrom'", ""),
    ("algo: {gama: 0.9}", "algo.gama=0.9", "gamma", ""),
    ("time_windw: 3", "experiment=mine: time_windw", "time_window", ""),
    ("neuron: {tauu: 3}", "neuron.tauu=3", "tau", ""),
    ("algo: {gamma: abc}", "algo.gamma=abc", "", "algo.gamma=0.99"),
    ("neuron: {v_threshold: 0}", "neuron.v_threshold=0", "> 0", "neuron.v_threshold=1.0"),
    (
        "neuron: {v_threshold: '${norm.foo}'}",
        "neuron.v_threshold=${norm.foo}",
        "norm.foo",
        "neuron.v_threshold=VALUE",
    ),
]


def refused_with_files(override: str) -> config.ConfigError:
    with pytest.raises(config.ConfigError) as error:
        config.compose([override])
    return error.value


@pytest.mark.parametrize(
    ("text", "what", "named", "instead"), BAD_FILES, ids=[row[0] for row in BAD_FILES]
)
def test_a_mistake_in_an_experiment_file_names_it(own_conf, text, what, named, instead):
    (own_conf / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{text}\n")
    (problem,) = refused_with_files("experiment=mine").problems
    assert (subject(problem), remedy(problem)) == (what, instead)
    assert named in problem.rule


def test_a_file_that_is_no_yaml_is_named_with_its_line(own_conf):
    (own_conf / "experiment" / "mine.yaml").write_text("# @package _global_\nalgo: [\n")
    (problem,) = refused_with_files("experiment=mine").problems
    assert f"{own_conf}/experiment/mine.yaml, line 3" in subject(problem)


def test_an_experiment_file_must_be_global(own_conf):
    (own_conf / "experiment" / "mine.yaml").write_text("seed: 3\n")
    (problem,) = refused_with_files("experiment=mine").problems
    assert subject(problem).startswith("experiment=mine")
    assert "# @package _global_" in str(problem)


@pytest.mark.parametrize(
    ("text", "what", "named"),
    [
        ("defaults: [_classic, _self_]\nidd: CartPole-v1", "env=mine: env.idd", "id"),
        ("defaults: [_clasic, _self_]", "env=mine: env=_clasic", "_classic"),
        ("defaults: [_classic, _self_]", "env.id", ""),
        ("id: CartPole-v1", "env._target_", ""),
    ],
)
def test_a_mistake_in_an_environment_file_names_it(own_conf, text, what, named):
    (own_conf / "env" / "mine.yaml").write_text(f"{text}\n")
    found = {subject(problem): problem for problem in refused_with_files("env=mine").problems}
    assert named in (*meant(found[what]), "")


def test_an_environment_that_fails_while_it_is_made_is_named(single, monkeypatch):
    def broken(*_):
        raise OSError("no ROM here")

    monkeypatch.setattr("sdqn_lab.envs.classic.Classic.__init__", broken)
    refused(single("env=cartpole", "protocol.eval_episodes=7"), "env=cartpole: no ROM here")


def test_replay_larger_than_memory_says_what_fits(single, monkeypatch):
    class Memory:
        available = 2 * 10**9

    monkeypatch.setattr("psutil.virtual_memory", Memory)
    answer = single("env=pong", "algo.replay_capacity_steps=1000000")
    refused(answer, "7.1 GB | 2.0 GB | write algo.replay_capacity_steps=25")


def test_a_network_larger_than_memory_is_counted_with_all_that_its_algorithm_keeps(
    single, monkeypatch
):
    class Memory:
        available = 4 * 9 * 1000 * 1000 // 2  # bytes of four and a half copies

    monkeypatch.setattr("psutil.virtual_memory", Memory)
    answer = single("env=cartpole", "network.hidden=997", "algo.replay_capacity_steps=5000")
    refused(answer, "network=mlp | training 1,0 | write smaller")


def test_a_callback_that_cannot_be_made_is_named(single):
    answer = single("env=cartpole", "budget=smoke", "+hydra.callbacks.mine._target_=no.Such")
    refused(answer, "hydra.callbacks.mine: | cannot be made | hydra.callbacks.mine._target_=")


COUNTING = """
import gymnasium
from gymnasium.envs.classic_control import CartPoleEnv


class Counting(CartPoleEnv):
    def __init__(self, **more):
        with open("made", "a") as file:
            file.write("x")
        super().__init__(**more)


gymnasium.register("Counting-v0", Counting)
"""


def test_an_environment_is_made_once_for_all_cells_that_share_it(tmp_path, monkeypatch):
    (tmp_path / "counting.py").write_text(COUNTING)
    monkeypatch.syspath_prepend(tmp_path)
    for seed in range(3):
        config.compose(["env=gymnasium", "env.id=counting:Counting-v0", f"seed={seed}"])
    assert Path("made").read_text() == "x"


DIRECTORIES = [
    ("FILE/x", "FILE/x: cannot be written | Not a directory"),
    ("FILE", "FILE: cannot be written | Not a directory"),
    ("/proc/nope", "/proc/nope: cannot be written, /proc | write"),
    ("long/" + "x" * 300, "cannot be written | File name too long"),
]


@pytest.mark.parametrize(("where", "problem"), DIRECTORIES, ids=["below", "file", "proc", "long"])
@pytest.mark.parametrize("key", ["hydra.run.dir", "hydra.sweep.dir"])
def test_an_unwritable_output_directory_is_refused(single, tmp_path_factory, key, where, problem):
    file = tmp_path_factory.mktemp("full") / "FILE"
    file.write_text("a file")
    multirun = ["-m"] if key == "hydra.sweep.dir" else []
    answer = single(*multirun, *KEPT, f"{key}={where.replace('FILE', str(file))}")
    refused(answer, f"{key}= | {problem} | write {key}=DIR with a directory that has room")


def test_a_full_output_directory_is_refused(single):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (directories.MIN_FREE_BYTES // 2, hard))
    try:
        answer = single(*KEPT)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    refused(answer, "hydra.run.dir=outputs/cartpole | cannot be written | File too large | write")


@pytest.mark.parametrize("name", ["config.yaml", "metrics.jsonl"])
def test_foreign_files_are_not_written_over(single, name):
    Path("mine").mkdir()
    Path("mine", name).write_text("of something else")
    answer = single(*KEPT, "hydra.run.dir=mine")
    assert (answer.code, len(answer.lines)) == (2, 1)
    assert f"mine holds {name} of something else; write hydra.run.dir=DIR" in answer.lines[0]
    assert [path.name for path in Path("mine").iterdir()] == [name]
    assert Path("mine", name).read_text() == "of something else"


def test_the_config_of_the_run_itself_is_not_in_its_way(tmp_path):
    cfg = config.compose(KEPT)
    directory = RunDirectory(tmp_path)
    directory.config.write_text(OmegaConf.to_yaml(cfg))
    assert directories.existing_state("hydra.run.dir", directory, cfg) is None
    directory.metrics.write_text("")
    with pytest.raises(config.ConfigError, match=r"config\.yaml, metrics\.jsonl of something else"):
        directories.existing_state("hydra.run.dir", directory, cfg)


def test_a_foreign_status_is_not_written_over(single):
    Path("mine").mkdir()
    Path("mine", "status.json").write_text("{}")
    answer = single(*KEPT, "hydra.run.dir=mine")
    assert (answer.code, len(answer.lines)) == (2, 1)
    assert "mine/status.json: no state of" in answer.lines[0]
    assert Path("mine", "status.json").read_text() == "{}"


def content(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def replaced(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def state_file(directory: Path) -> Path:
    return next((directory / "checkpoint").glob("state-*"))


ANEW = "a command for a run of its own"
RESUMES = [
    ("algo.gamma=0.9", "algo.gamma=0.9", ANEW),
    ("seed=7", "seed=7", ANEW),
    ("neuron=if", "neuron=if", ANEW),
    ("budget.steps=100", "budget.steps=100", "budget.steps=200 or more"),
    ("budget.steps=1e3", "budget.steps=1e3", "budget.steps=1000"),
    ("algo.gama=1", "algo.gama=1", ""),
    ("seed=1,2", "seed=1,2", "one value"),
    ("device=cuda budget.steps=300", "device=cuda", "device=cpu or device=auto"),
    ("tracker=wandbb", "tracker=wandbb", ""),
    ("-m", "-m", "overrides"),
    ("~norm", "~norm", "norm=OPTION"),
]


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize(("given", "what", "instead"), RESUMES, ids=[row[0] for row in RESUMES])
def test_a_resume_that_would_be_another_run_is_refused(finished, given, what, instead):
    before = content(finished)
    with pytest.raises(config.ConfigError) as error:
        resumed(["--resume", str(finished), *given.split()])
    (problem,) = error.value.problems
    assert subject(problem) == what
    assert (remedy(problem) or problem.rule).endswith(instead)
    assert content(finished) == before


AGAIN = "put the file back, or delete run/checkpoint to run anew"
DAMAGES = {
    "status": (lambda d: (d / "status.json").write_text("{"), "run/status.json: ", "delete"),
    "config": (lambda d: (d / "config.yaml").write_text("algo: ["), "run/config.yaml: ", ""),
    "foreign": (lambda d: (d / "config.yaml").write_text("model: x"), "run/config.yaml: ", ""),
    "class": (
        lambda d: replaced(d / "config.yaml", "sdqn_lab.spiking.neuron.LIF", "subprocess.Popen"),
        "neuron._target_=subprocess.Popen: ",
        "write --trust",
    ),
    "gone": (lambda d: (d / "config.yaml").unlink(), "--resume run: ", "write --resume RUN_DIR"),
    "state": (lambda d: truncated(state_file(d)), "run/checkpoint/state-", AGAIN),
    "lost": (lambda d: state_file(d).unlink(), "run/checkpoint/state-", AGAIN),
    "bits": (
        lambda d: state_file(d).write_bytes(bytes(state_file(d).stat().st_size)),
        "run/checkpoint/state-",
        AGAIN,
    ),
    "manifest": (
        lambda d: truncated(d / "checkpoint/manifest.json"),
        "run/checkpoint/manifest.json: ",
        AGAIN,
    ),
    "half": (
        lambda d: (d / "checkpoint/manifest.json").write_text('{"version": 2}'),
        "run/checkpoint: ",
        AGAIN,
    ),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_a_damaged_run_directory_is_named(single, finished, what):
    damage, named, instead = DAMAGES[what]
    damage(finished)
    before = content(finished)
    answer = single("--resume", str(finished), "budget.steps=300")
    complains(answer, f"{named} | {instead}")
    assert content(finished) == before


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ("--resume nowhere", "--resume nowhere"),
        ("--resume=nowhere", "--resume nowhere"),
        ("--resume .", "--resume ."),
        ("--resume", "--resume"),
    ],
)
def test_a_resume_of_no_run_is_refused(single, given, what):
    refused(single(*given.split()), f"error: {what}: | write --resume RUN_DIR")


def test_the_next_attempt_of_a_finished_run_is_one_line_and_no_mistake(single, finished):
    before = content(finished)
    for arguments in (["--resume", "run", "tracker=none"], [*KEPT, "hydra.run.dir=run"]):
        answer = single(*arguments)
        assert (answer.code, answer.lines) == (0, ["run: finished already, nothing to do"])
    assert content(finished) == before


def test_a_start_that_died_before_its_config_was_written_can_be_repeated(single):
    RunDirectory("run").path.mkdir()
    RunDirectory("run").update(state="pending", cell="run")
    assert single(*KEPT, "hydra.run.dir=run").code == 0
    assert RunDirectory("run").state == "finished"


FULL_AT_THE_SECOND_CHECKPOINT = """
    import resource, sys
    from sdqn_lab import run
    from sdqn_lab.training.checkpoint import Checkpoint
    whole, limit = Checkpoint.save, int(sys.argv.pop(1))

    def save(self, *args):
        if self.exists:
            hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        whole(self, *args)

    Checkpoint.save = save
    sys.exit(run.main(sys.argv[1:]))
"""


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "80"}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=environment, check=False
    )


@pytest.mark.parametrize(
    ("limit", "state"), [(20_000, "failed"), pytest.param(0, "running", marks=pytest.mark.slow)]
)
def test_a_disk_that_fills_leaves_the_last_checkpoint_whole(single, limit, state):
    code = textwrap.dedent(FULL_AT_THE_SECOND_CHECKPOINT)
    arguments = [*KEPT, "network.hidden=64", "hydra.run.dir=run"]
    done = python("-c", code, str(limit), *arguments)
    said = [line for line in done.stderr.splitlines() if "File too large" in line]
    assert done.returncode == 1
    assert len(said) == 1, done.stderr
    assert "run" in said[0]
    assert "Traceback" not in done.stderr
    assert RunDirectory("run").state == state
    assert single("--resume", "run").code == 0
    assert RunDirectory("run").state == "finished"


@pytest.mark.parametrize("inner", ["plan", "resumed", "_multirun"])
def test_ctrl_c_before_anything_was_started_leaves_nothing_and_no_traceback(
    single, monkeypatch, inner
):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, inner, interrupted)
    answer = single(*(["--resume", "x"] if inner == "resumed" else ["-m", *KEPT, "seed=0,1"]))
    assert (answer.code, answer.lines) == (130, ["interrupted"])
    assert not list(Path.cwd().iterdir())


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ("neuron.tauu=3", "neuron.tauu=3"),
        pytest.param("--resume x", "--resume x", marks=pytest.mark.slow),
    ],
)
def test_the_command_itself_answers_in_one_line(given, what):
    done = python("-m", "sdqn_lab.run", *given.split())
    refused(Answer(done.returncode, done.stdout, done.stderr), f"error: {what}: ")
