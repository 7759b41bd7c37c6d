"""A wrong single is answered at once: a clear line per mistake, and nothing is left behind."""

import os
import resource
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from sdqn_lab import config, run
from sdqn_lab.config import directories, schema
from sdqn_lab.envs.atari import REFUSED
from sdqn_lab.runs.directory import RunDirectory
from tests.commands import refused

TINY = ["env=cartpole", "tracker=none", "network.hidden=8", "time_window=1", "budget.steps=200"]
TINY += ["algo.num_envs=2", "algo.iteration_steps=100", "algo.replay_start_steps=40"]
TINY += ["algo.replay_capacity_steps=100", "algo.batch_size=4", "protocol.eval_episodes=1"]
TINY += ["device=cpu", "keep_state=true"]


MISSPELT = [
    ("nuron=lif", "nuron=lif: | did you mean neuron? | keys: neuron, surrogate"),
    ("time_windw=4", "time_windw=4: | did you mean time_window?"),
    ("algo.gama=0.9", "algo.gama=0.9: | option braincog of algo | did you mean gamma?"),
    ("neuron.tauu=3", "neuron.tauu=3: | option lif of neuron | did you mean tau?"),
    ("neuron=if neuron.tau=2", "neuron.tau=2: | option if of neuron has no key tau | keys:"),
    ("norm.over_time=true", "norm.over_time=true: | option popnorm of norm | keys: eps"),
    ("env=pongg", "env=pongg: | did you mean pong? | space_invaders"),
    ("hydra.foo=1", "hydra.foo=1: | no key foo | keys: run, sweep"),
    ("hydra/launcher=slurmm", "hydra/launcher=slurmm: | options: basic"),
    ("experiment=pl_sdq", "experiment=pl_sdq: | did you mean pl_sdqn"),
    ("sweep=quickstrt", "sweep=quickstrt: | did you mean quickstart?"),
    ("tracker=wandbb", "tracker=wandbb: | did you mean wandb?"),
    ("norm@x=none", "norm@x=none: | no group norm@x | did you mean norm?"),
    ("+foo=bar", "foo=bar: no key foo | keys: neuron"),
    ("++foo=bar", "foo=bar: no key foo | keys: neuron"),
    ("+neuron.foo=1", "neuron.foo=1: LIF has no argument foo | keys: tau"),
]

NOT_AN_OVERRIDE = [
    ("foo", "foo: not an override; write key=value"),
    ("a=b=c", "a=b=c: not an override; write key=value"),
    ("budget.steps=${foo", "budget.steps=${foo: not an override; write key=value"),
    ("=x", "=x: the key is missing; write key=value"),
    ("+seed=3", "+seed=3: seed has a value already; write seed=3"),
    ("+experiment=pl_sdqn", "+experiment=pl_sdqn: | write experiment=pl_sdqn"),
    ("++norm=none", "++norm=none: | write norm=none"),
    ("~norm", "~norm: nothing can be taken away; write norm=OPTION"),
    ("~algo.gamma", "~algo.gamma: nothing can be taken away; write algo.gamma=VALUE"),
    ("norm=null", "norm=null: no option; | batchnorm, none, popnorm"),
    ("norm=", "norm=: no such option; options: batchnorm, none, popnorm"),
    ("norm=3", "norm=3: no option; | batchnorm, none, popnorm"),
    ("norm=[popnorm,none]", "norm=[popnorm,none]: a group takes one option | -m norm=popnorm,none"),
    ("algo={gamma:0.9}", "algo={gamma:0.9}: a group takes one option"),
    ("norm=popnorm,none", "norm=popnorm,none: several values need a multirun; write -m"),
    ("seed=range(3)", "seed=range(3): several values need a multirun; write -m"),
    ("algo.gamma=${foo}", "algo.gamma=${foo}: | 'foo' not found; write algo.gamma=VALUE"),
    ("hydra.run.dir=${foo}", "hydra.run.dir: | 'foo' not found; write hydra.run.dir=DIR"),
    ("--foo", "--foo: no such flag; write --help"),
    ("--config-name=other", "--config-name: | one config of its own"),
    ("--config-dir=other", "--config-dir other: no such directory; write --config-dir DIR"),
]

WRONG_TYPES = [
    ("algo.gamma=abc", "algo.gamma=abc: must be a number; write algo.gamma=0.99"),
    ("algo.gamma=[0.9]", "algo.gamma=[0.9]: must be a number"),
    ("algo.gamma=true", "algo.gamma=true: must be a number"),
    ("algo.gamma=", "algo.gamma=: must be a number"),
    ("budget.steps=1e7", "budget.steps=1e7: must be a whole number; write budget.steps=10000000"),
    ("budget.steps=10.5", "budget.steps=10.5: must be a whole number"),
    ("budget.steps=true", "budget.steps=true: must be a whole number"),
    ("time_window=2.5", "time_window=2.5: must be a whole number; write time_window=16"),
    ("time_window=null", "time_window=null: must be a whole number"),
    ("time_window_eval=x", "time_window_eval=x: must be a whole number or null"),
    ("seed=abc", "seed=abc: must be a whole number; write seed=0"),
    ("keep_state=maybe", "keep_state=maybe: must be true or false; write keep_state=false"),
    ("env.sizes=1", "env.sizes=1: | write"),
    ("neuron.tau=abc", "neuron.tau=abc: must be a number; write neuron.tau=2.0"),
    ("+algo.seed=1", "algo.seed=1: DQN has no argument seed; keys: num_envs"),
    ("+norm.v_threshold=5", "norm.v_threshold=5: PopNorm has no argument v_threshold; keys:"),
    (
        "algo._target_=sdqn_lab.agents.base.Agent",
        "algo._target_=sdqn_lab.agents.base.Agent: Agent is abstract; write a class derived",
    ),
    ("algo=null", "algo=null: no option; write algo=OPTION"),
    ("neuron.tau=true", "neuron.tau=true: must be a number"),
    ("neuron.tau=[2]", "neuron.tau=[2]: must be a number"),
    ("neuron.tau=null", "neuron.tau=null: must be a number"),
    ("neuron.detach_reset=1", "neuron.detach_reset=1: must be true or false | =true"),
    ("neuron.reset=1", "neuron.reset=1: must be a text; write neuron.reset=hard"),
    ("network.channels=32", "network.channels=32: must be a list | network.channels=[32,64,64]"),
    ("neuron._target_=os.system", "neuron._target_=os.system: os has no class system; write"),
    (
        "neuron._target_=sdqn_lab.spiking.norm.PopNorm",
        "neuron._target_= | PopNorm is no Neuron; write a class derived from sdqn_lab.spiking",
    ),
    (
        "env._target_=nowhere.Env",
        "env._target_=nowhere.Env: cannot be imported | No module | write",
    ),
]

OUT_OF_RANGE = [
    ("time_window=-1", "time_window=-1: must be >= 1; write time_window=1 or more"),
    ("time_window=0", "time_window=0: must be >= 1"),
    ("time_window_eval=0", "time_window_eval=0: must be >= 1"),
    ("seed=-1", "seed=-1: must lie in [0, | write seed=0"),
    ("seed=99999999999999999999", "seed=99999999999999999999: must lie in [0, | write seed=0"),
    ("threads=0", "threads=0: must be >= 1"),
    ("health=maybe", "health=maybe: must be one of warn, refuse, off; write health=warn"),
    ("algo.gamma=1.5", "algo.gamma=1.5: must lie in [0, 1]; write algo.gamma=0.99"),
    ("algo.learning_rate=nan", "algo.learning_rate=nan: must be a finite number; write"),
    ("algo.learning_rate=inf", "algo.learning_rate=inf: must be a finite number; write"),
    ("algo.max_grad_norm=0", "algo.max_grad_norm=0: must be > 0; write algo.max_grad_norm=null"),
    ("algo.loss=l2", "algo.loss=l2: must be one of mse, huber; write algo.loss=mse"),
    ("algo.target_ema=0", "algo.target_ema=0: must lie in (0, 1]; write"),
    ("checkpoint_every_minutes=0", "checkpoint_every_minutes=0.0: must be > 0; write"),
    ("neuron.tau=0.5", "neuron.tau=0.5: must be >= 1 and finite; write neuron.tau=2.0"),
    ("neuron=plif neuron.tau=1", "neuron.tau=1: must be > 1 and finite; write neuron.tau=2.0"),
    ("surrogate.alpha=0", "surrogate.alpha=0: must be > 0 and finite; write surrogate.alpha="),
    ("surrogate.alpha=-1", "surrogate.alpha=-1: must be > 0 and finite"),
    ("surrogate.alpha=nan", "surrogate.alpha=nan: must be a finite number"),
    ("surrogate.alpha=inf", "surrogate.alpha=inf: must be a finite number"),
    ("neuron.v_threshold=0", "neuron.v_threshold=0: must be > 0 and finite"),
    ("neuron.v_reset=1", "neuron.v_reset=1: must be finite and < v_threshold (1.0); write"),
    ("neuron.v_reset=0.5 neuron.reset=soft", "neuron.v_reset=0.5: must be 0 with reset=soft"),
    ("neuron.reset=sft", "neuron.reset=sft: must be hard or soft; write neuron.reset=hard"),
    ("readout=mean_membrane readout.tau=0.5", "readout.tau=0.5: must be >= 1 and finite; write"),
    ("norm.eps=-1", "norm.eps=-1: must be >= 0; write norm.eps=1e-05"),
    ("norm=batchnorm norm.momentum=0", "norm.momentum=0: must lie in (0, 1]; write"),
    ("network.channels=[32,64]", "network.channels=[32,64]: must have 3 entries; write"),
    ("network.channels=[]", "network.channels=[]: must have 3 entries; write"),
    ("network.channels=[32,64,0]", "network.channels=[32,64,0]: must be >= 1 everywhere"),
    ("network.hidden=0", "network.hidden=0: must be >= 1; write network.hidden=512"),
]

CONTRADICTIONS = [
    ("algo.batch_size=200000", "algo.batch_size=200000: larger than replay | write"),
    ("algo.replay_start_steps=200000", "algo.replay_start_steps=200000: more than replay holds"),
    ("budget.steps=100", "budget.steps=100: ends before learning starts | budget.steps=321"),
    ("algo.epsilon_begin=0.01", "algo.epsilon_end=0.05: above algo.epsilon_begin=0.01 | write"),
    (
        "algo.replay_capacity_steps=100 algo.replay_start_steps=40",
        "algo.replay_capacity_steps=100: | algo.batch_size=32; write | =112 or more",
    ),
    (
        "norm=batchnorm env=cartpole algo.batch_size=1",
        "algo.batch_size=1: norm=batchnorm has no statistics of a single sample | batch_size=32",
    ),
    (
        "norm=batchnorm network.normalize_hidden=true algo.batch_size=1",
        "algo.batch_size=1: norm=batchnorm has no statistics of a single sample",
    ),
    ("readout=mean_membrane neuron=relu", "readout=mean_membrane: | write readout=mean_spikes"),
    (
        "encoder=poisson neuron=relu env=minatar_breakout",
        "encoder=poisson: | neuron=relu has none; write encoder=direct",
    ),
    ("encoder=poisson env=cartpole", "encoder=poisson: | [0, 1] | write encoder=direct"),
    ("network=nature env=cartpole", "network=nature: needs an image | (4,) | write network=mlp"),
    (
        "network=nature env=minatar_breakout",
        "network=nature: needs an image of at least 36x36 | write network=minatar",
    ),
    ("network=mlp env=pong", "network=mlp: needs a vector | write network=nature"),
    ("protocol.sticky_actions=2", "protocol.sticky_actions=2.0: must lie in [0, 1); write"),
    (
        "protocol.noop_max=30 env=minatar_breakout",
        "protocol.noop_max=30: must be 0 for MinAtar; write protocol=minatar",
    ),
    ("protocol=minatar env=pong", "protocol.difficulty_ramping=true: | write protocol=braincog"),
    ("protocol=machado env=cartpole", "protocol.sticky_actions=0.25: | write protocol=plain"),
    ("protocol=braincog env=cartpole", "protocol.noop_max=30: | write protocol=plain"),
    ("device=cuda", "device=cuda: this machine has 0 CUDA devices; write device=cpu"),
    ("device=cuda:7", "device=cuda:7: this machine has 0 CUDA devices; write device=cpu"),
    ("device=tpu", "device=tpu: must be auto, cpu, cuda or cuda:N; write device=auto"),
    ("device=cuda:x", "device=cuda:x: must be auto, cpu, cuda or cuda:N"),
    (
        "algo.replay_capacity_steps=10000000000",
        "algo.replay_capacity_steps=10000000000: | GB, | GB are free; write | or less",
    ),
]

GAMES = [
    *[(f"env={game}", f"env={game}: a game for two | write env=pong") for game in REFUSED],
    ("env=_atari", "env=_atari: a base | no option itself; write env=OPTION | space_invaders"),
    ("env=gymnasium", "env.id: a value is required; write env.id=VALUE"),
    ("env=gymnasium env.id=NoSuch-v0", "env.id=NoSuch-v0 | must be | write env.id=CartPole-v1"),
    ("env=gymnasium env.id=no.module:Foo-v1", "env.id=no.module:Foo-v1 | must be | write"),
    (
        "env=gymnasium env.id=Pendulum-v1",
        "env.id=Pendulum-v1 | must have Discrete actions (Q- | write",
    ),
    ("env=pong env.id=pongg", "env.id=pongg: must be one of the 104 | write env=pong"),
    ("env=pong env.id=combat", "env.id=combat: must be a game for one player | write env=pong"),
]

ALL = [*MISSPELT, *NOT_AN_OVERRIDE, *WRONG_TYPES, *OUT_OF_RANGE, *CONTRADICTIONS, *GAMES]


@pytest.mark.parametrize(("given", "problem"), ALL, ids=[given for given, _ in ALL])
def test_a_wrong_command_is_answered_with_one_clear_line(single, given, problem):
    refused(single(*given.split()), problem)


OPTIONS = {
    "neuron": ("liff", "lif"),
    "surrogate": ("attan", "atan"),
    "norm": ("popnrm", "popnorm"),
    "encoder": ("dirct", "direct"),
    "readout": ("mean_spike", "mean_spikes"),
    "network": ("natur", "nature"),
    "env": ("minatar_breakot", "minatar_breakout"),
    "protocol": ("machdo", "machado"),
    "algo": ("dubble_dqn", "double_dqn"),
    "budget": ("shrt", "short"),
    "tracker": ("tensorbord", "tensorboard"),
    "experiment": ("dqn_popnrm", "dqn_popnorm"),
    "sweep": ("quikstart", "quickstart"),
}


@pytest.mark.parametrize("group", config.GROUPS)
def test_a_misspelt_option_is_answered_with_the_options(single, group):
    wrong, right = OPTIONS[group]
    answer = single(f"{group}={wrong}")
    refused(answer, f"{group}={wrong}: no such option; did you mean | {right} | options: ")


def test_all_mistakes_are_reported_at_once(single):
    answer = single("algo.gama=0.9", "neuron.tauu=3", "budget.steps=x", "seed=-1", "norm.eps=-1")
    refused(answer, "algo.gama=0.9", "neuron.tauu=3", "budget.steps=x", "seed=-1", "norm.eps=-1")
    refused(single("foo", "~norm"), "foo: not an override", "~norm: nothing can be")
    refused(single("seed=0,1", "norm=none,popnorm"), "seed=0,1: several", "norm=none,popnorm: sev")
    refused(
        single("time_window=0", "neuron.tau=0", "surrogate.alpha=0", "device=tpu"),
        *("time_window=0: must", "neuron.tau=0: must", "surrogate.alpha=0: must", "device=tpu: m"),
    )


BAD_GRIDS = [
    ("norm=popnorm,none seed=0,-1", "seed=-1: must lie in [0, "),
    ("norm=popnorm,nonee", "norm=nonee: no such option; did you mean none?"),
    ("norm=popnorm,null", "norm=null: no option"),
    ("env=pong,pongg", "env=pongg: no such option"),
    ("env=minatar_breakout,cartpole network=minatar", "network=minatar: needs an image"),
    ("neuron=lif,relu readout=mean_membrane", "readout=mean_membrane: integrates over time"),
    ("time_window=range(0,4)", "time_window=0: must be >= 1"),
    ("algo.gamma=0.9,abc", "algo.gamma=abc: must be a number"),
    ("experiment=pl_sdqn,dqnn", "experiment=dqnn: no such option; did you mean dqn"),
]


@pytest.mark.parametrize(("given", "problem"), BAD_GRIDS, ids=[given for given, _ in BAD_GRIDS])
def test_one_bad_cell_keeps_the_good_ones_from_starting(single, given, problem):
    refused(single("-m", "tracker=none", *given.split()), problem)


BAD_FILES = [
    (
        "defaults: [override /norm: popnrm]",
        "experiment=mine: norm=popnrm: no such option | popnorm",
    ),
    ("defaults: [override /nrom: popnorm]", "experiment=mine: | 'nrom'"),
    ("algo: {gama: 0.9}", "algo.gama=0.9: DQN has no argument gama; did you mean gamma?"),
    ("time_windw: 3", "experiment=mine: time_windw: no key time_windw; did you mean time_window?"),
    ("neuron: {tauu: 3}", "neuron.tauu=3: LIF has no argument tauu; did you mean tau? keys: tau"),
    ("algo: {gamma: abc}", "algo.gamma=abc: must be a number; write algo.gamma=0.99"),
    ("neuron: {v_threshold: 0}", "neuron.v_threshold=0: must be > 0"),
    ("neuron: {v_threshold: '${norm.foo}'}", "neuron.v_threshold=${norm.foo}: | not found; write"),
    ("algo: [", "experiment/mine.yaml, line | not YAML | mend the file"),
]


@pytest.fixture
def own_conf(tmp_path_factory, monkeypatch) -> Path:
    """A copy of the configs, to which a user has added files."""
    copy = tmp_path_factory.mktemp("own") / "conf"
    shutil.copytree(config.conf_dir(), copy)
    monkeypatch.setattr(schema, "folder", lambda name: copy)
    return copy


@pytest.mark.parametrize(("text", "problem"), BAD_FILES, ids=[text for text, _ in BAD_FILES])
def test_a_mistake_in_an_experiment_file_names_it(single, own_conf, text, problem):
    (own_conf / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{text}\n")
    refused(single("experiment=mine"), problem)


def test_an_experiment_file_must_be_global(single, own_conf):
    (own_conf / "experiment" / "mine.yaml").write_text("seed: 3\n")
    refused(single("experiment=mine"), "experiment=mine: | must begin with | # @package _global_")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("defaults: [_classic, _self_]\nidd: CartPole-v1", "env=mine: env.idd: | did you mean id?"),
        ("defaults: [_clasic, _self_]", "env=mine: env=_clasic: | did you mean _classic?"),
        ("defaults: [_classic, _self_]", "env.id: a value is required"),
        ("id: CartPole-v1", "env._target_: a value is required"),
    ],
)
def test_a_mistake_in_an_environment_file_names_it(single, own_conf, text, problem):
    (own_conf / "env" / "mine.yaml").write_text(f"{text}\n")
    answer = single("env=mine")
    assert any(all(word in line for word in problem.split(" | ")) for line in answer.lines)
    assert answer.code == 2
    assert "Traceback" not in "".join(answer.lines)


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
    refused(answer, "replay needs 7.1 GB, 2.0 GB are free; write algo.replay_capacity_steps=25")


def test_an_environment_is_made_once_for_all_cells_that_share_it(monkeypatch):
    made = []
    from sdqn_lab.envs.classic import Classic

    original = Classic.__init__
    counted = lambda self, *args: (made.append(args), original(self, *args))[1]  # noqa: E731
    monkeypatch.setattr(Classic, "__init__", counted)
    for seed in range(3):
        config.compose(["env=cartpole", "protocol.epsilon_eval=0.0125", f"seed={seed}"])
    assert len(made) == 1


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
    answer = single(*multirun, *TINY, f"{key}={where.replace('FILE', str(file))}")
    refused(answer, f"{key}= | {problem} | write {key}=DIR with a directory that has room")


def test_a_full_output_directory_is_refused(single):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (directories.MIN_FREE_BYTES // 2, hard))
    try:
        answer = single(*TINY)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    refused(answer, "hydra.run.dir=outputs/cartpole | cannot be written | File too large | write")


@pytest.mark.parametrize("name", ["config.yaml", "metrics.jsonl"])
def test_foreign_files_are_not_written_over(single, name):
    Path("mine").mkdir()
    Path("mine", name).write_text("of something else")
    answer = single(*TINY, "hydra.run.dir=mine")
    assert (answer.code, len(answer.lines)) == (2, 1)
    assert f"mine holds {name} of something else; write hydra.run.dir=DIR" in answer.lines[0]
    assert [path.name for path in Path("mine").iterdir()] == [name]
    assert Path("mine", name).read_text() == "of something else"


def test_the_config_of_the_run_itself_is_not_in_its_way(tmp_path):
    cfg = config.compose(TINY)
    directory = RunDirectory(tmp_path)
    directory.config.write_text(OmegaConf.to_yaml(cfg))
    assert directories.begun("hydra.run.dir", directory, cfg) is None
    directory.metrics.write_text("")
    with pytest.raises(config.ConfigError, match=r"config\.yaml, metrics\.jsonl of something else"):
        directories.begun("hydra.run.dir", directory, cfg)


def test_a_foreign_status_is_not_written_over(single):
    Path("mine").mkdir()
    Path("mine", "status.json").write_text("{}")
    answer = single(*TINY, "hydra.run.dir=mine")
    assert (answer.code, len(answer.lines)) == (2, 1)
    assert "mine/status.json: no state of" in answer.lines[0]
    assert Path("mine", "status.json").read_text() == "{}"


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("trained") / "run"
    assert run.main([*TINY, f"hydra.run.dir={directory}"]) == 0
    return directory


@pytest.fixture
def finished(trained, tmp_path) -> Path:
    """A run that kept its state, relative to the working directory."""
    shutil.copytree(trained, tmp_path / "run")
    return Path("run")


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


RESUMES = [
    ("algo.gamma=0.9", "algo.gamma=0.9: would change the run's numbers (it began with 0.99)"),
    ("seed=7", "seed=7: would change the run's numbers (it began with 0); write"),
    ("neuron=if", "neuron=if: a resumed run keeps neuron=lif; write"),
    ("budget.steps=100", "budget.steps=100: a run cannot get shorter | write budget.steps=200"),
    ("budget.steps=1e3", "budget.steps=1e3: must be a whole number; write budget.steps=1000"),
    ("algo.gama=1", "algo.gama=1: no key gama; keys: iteration_steps, | gamma"),
    ("seed=1,2", "seed=1,2: a resumed run is one run; write one value"),
    ("device=cuda budget.steps=300", "device=cuda: this machine has 0 CUDA devices; write"),
    ("tracker=wandbb", "tracker=wandbb: no such option; did you mean wandb?"),
    ("-m", "-m: no flag that goes with --resume"),
    ("~norm", "~norm: nothing can be taken away"),
]


@pytest.mark.parametrize(("given", "problem"), RESUMES, ids=[given for given, _ in RESUMES])
def test_a_resume_that_would_be_another_run_is_refused(single, finished, given, problem):
    before = content(finished)
    answer = single("--resume", str(finished), *given.split())
    assert (answer.code, len(answer.lines)) == (2, 1), answer.lines
    assert all(word in answer.lines[0] for word in problem.split(" | ")), answer.lines
    assert content(finished) == before


DAMAGES = {
    "status": (
        lambda d: (d / "status.json").write_text("{"),
        "status.json: not valid JSON | delete",
    ),
    "config": (
        lambda d: (d / "config.yaml").write_text("algo: ["),
        "config.yaml: not the config of",
    ),
    "foreign": (
        lambda d: (d / "config.yaml").write_text("model: x"),
        "config.yaml: not the config of",
    ),
    "class": (
        lambda d: replaced(d / "config.yaml", "sdqn_lab.spiking.neuron.LIF", "subprocess.Popen"),
        "neuron._target_=subprocess.Popen: | outside sdqn_lab | write --trust",
    ),
    "gone": (lambda d: (d / "config.yaml").unlink(), "--resume run: holds no run; write --resume"),
    "state": (
        lambda d: truncated(state_file(d)),
        ".safetensors: | cut short; put the file back, or",
    ),
    "lost": (lambda d: state_file(d).unlink(), ".safetensors: missing | put the file back, or"),
    "bits": (
        lambda d: state_file(d).write_bytes(bytes(state_file(d).stat().st_size)),
        ".safetensors: | damaged; put the file back, or delete",
    ),
    "manifest": (
        lambda d: truncated(d / "checkpoint/manifest.json"),
        "manifest.json: not a checkpoint manifest | or delete run/checkpoint to run anew",
    ),
    "half": (
        lambda d: (d / "checkpoint/manifest.json").write_text('{"version": 2}'),
        "run/checkpoint: damaged; put the file back, or delete",
    ),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_a_damaged_run_directory_is_named(single, finished, what):
    damage, problem = DAMAGES[what]
    damage(finished)
    before = content(finished)
    answer = single("--resume", str(finished), "budget.steps=300")
    assert (answer.code, len(answer.lines)) == (2, 1), answer.lines
    assert all(word in answer.lines[0] for word in problem.split(" | ")), answer.lines
    assert content(finished) == before


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ("--resume nowhere", "--resume nowhere: no such directory; write --resume RUN_DIR"),
        ("--resume=nowhere", "--resume nowhere: no such directory; write --resume RUN_DIR"),
        ("--resume .", "--resume .: holds no run; write --resume RUN_DIR"),
        ("--resume", "--resume: which run? write --resume RUN_DIR"),
    ],
)
def test_a_resume_of_no_run_is_refused(single, given, problem):
    refused(single(*given.split()), problem)


def test_the_next_attempt_of_a_finished_run_is_one_line_and_no_mistake(single, finished):
    before = content(finished)
    for overrides in (["--resume", "run", "tracker=none"], [*TINY, "hydra.run.dir=run"]):
        answer = single(*overrides)
        assert (answer.code, answer.lines) == (0, ["run: finished already, nothing to do"])
    assert content(finished) == before


def test_a_start_that_died_before_its_config_was_written_can_be_repeated(single):
    RunDirectory("run").path.mkdir()
    RunDirectory("run").update(state="pending", cell="run")
    assert single(*TINY, "hydra.run.dir=run").code == 0
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


def python(*overrides: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "80"}
    return subprocess.run(
        [sys.executable, *overrides], capture_output=True, text=True, env=environment, check=False
    )


@pytest.mark.parametrize(("limit", "state"), [(20_000, "failed"), (0, "running")])
def test_a_disk_that_fills_leaves_the_last_checkpoint_whole(single, limit, state):
    code = textwrap.dedent(FULL_AT_THE_SECOND_CHECKPOINT)
    overrides = [*TINY, "network.hidden=64", "hydra.run.dir=run"]
    done = python("-c", code, str(limit), *overrides)
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
    answer = single(*(["--resume", "x"] if inner == "resumed" else ["-m", *TINY, "seed=0,1"]))
    assert (answer.code, answer.lines) == (130, ["interrupted"])
    assert not list(Path.cwd().iterdir())


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ("neuron.tauu=3", "error: neuron.tauu=3: option lif of neuron has no key tauu"),
        ("env=warlords", "error: env=warlords: a game for two"),
        ("-m seed=0,-1", "error: seed=-1: must lie in [0, "),
        ("--resume nowhere", "error: --resume nowhere: no such directory"),
    ],
)
def test_the_command_itself_answers_in_one_line(given, problem, record_property):
    begin = time.perf_counter()
    done = python("-m", "sdqn_lab.run", *given.split())
    record_property("seconds_to_answer", round(time.perf_counter() - begin, 2))
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith(problem)
    assert not list(Path.cwd().iterdir())
