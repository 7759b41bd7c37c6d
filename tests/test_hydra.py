"""What Hydra's documentation promises of a command line, and what a sweeper that searches needs."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import hydra
import pytest
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from sdqn_lab import config, run
from sdqn_lab.config import Composer
from sdqn_lab.runs.directory import RunDirectory
from sdqn_lab.runs.objective import objective
from tests.commands import refused
from tests.launching.sweeps import TINY

DRY = "hydra.launcher.dry_run=true"

SETS = [
    "",
    "env=minatar_breakout norm=none neuron=if seed=3",
    "env=pong neuron=relu time_window=8 budget.steps=777",
    "experiment=dqn env=minatar_freeway budget=short",
    "experiment=sdqn_batchnorm seed=1",
    "sweep=quickstart seed=2",
    "env=gymnasium env.id=CartPole-v1 network.hidden=16",
    "neuron.tau=3 surrogate=sigmoid surrogate.alpha=2 norm=batchnorm norm.over_time=true",
    "+neuron.surplus=1 ++algo.gamma=0.5 ++network.more=abc",
    "tracker=wandb tracker.tags=[a,b] device=cpu threads=2",
    "hydra.sweep.dir=here hydra.sweep.subdir=there seed=4",
    "hydra/launcher=slurm hydra.launcher.timeout_min=7 hydra.mode=MULTIRUN env=cartpole",
    "hydra.job.config.override_dirname.exclude_keys=[seed] seed=4 time_window=2",
    "budget=smoke env=cartpole budget.steps=100 algo.batch_size=4 time_window_eval=2",
    "env=cartpole network.hidden=null protocol.eval_episodes=3",
    "+tracker.more={a:1,b:[2,3]} +hydra.job.env_set.A=b",
]


def by_hydra(overrides: list[str]) -> DictConfig:
    """The same config by Hydra's own function, its node included."""
    with hydra.initialize_config_dir(str(config.conf_dir()), version_base="1.3"):
        return hydra.compose("config", overrides, return_hydra_config=True)


@pytest.mark.parametrize("arguments", SETS)
def test_a_cell_is_composed_to_what_hydra_itself_makes_of_its_overrides(arguments):
    overrides, composer = arguments.split(), Composer()
    expected = by_hydra(overrides)
    for earlier in ([*overrides, "seed=99", "algo.gamma=0.1"], overrides):
        made = composer.compose_raw(earlier)
    made.hydra.job.name = expected.hydra.job.name  # Hydra names a job after the calling program
    assert OmegaConf.to_yaml(made) == OmegaConf.to_yaml(expected)


def test_a_cell_is_composed_once_and_validated_once(monkeypatch):
    composed, validated = [], []
    original, check = Composer.compose_raw, config.planning.validate
    monkeypatch.setattr(
        Composer, "compose_raw", lambda *args: (composed.append(1), original(*args))[1]
    )
    for module in (config.planning, run):
        monkeypatch.setattr(
            module, "validate", lambda *args, **how: (validated.append(1), check(*args, **how))
        )
    assert run.main(TINY) == 0
    assert (len(composed), len(validated)) == (1, 1)


@pytest.mark.parametrize(
    ("sweep", "cells"),
    [
        ("env=glob(minatar_*)", 5),
        ("env=glob([minatar_*,cart*],exclude=*way)", 5),
        ("seed=range(3)", 3),
        ("seed=choice(1,2)", 2),
        ("seed=sort(3,1,2)", 3),
        ("seed=shuffle(1,2,3,4)", 4),
    ],
)
def test_every_discrete_sweep_of_hydras_makes_its_cells(sweep, cells, multirun):
    answer = multirun("env=cartpole", *TINY, sweep, DRY)
    assert answer.code == 0
    assert answer.out.startswith(f"{cells} cells in ")


@pytest.mark.parametrize("sweep", ["env=glob(zzz*)", "time_window=interval(1,4)"])
def test_a_sweep_without_values_is_answered_in_one_line(sweep, multirun):
    refused(multirun("env=cartpole", sweep), sweep)


# Rows of a sweep: values that belong together

ROWS = "cells=[{neuron:lif,surrogate:atan},{neuron:if,surrogate:gate}]"


def test_what_a_command_varies_replaces_the_values_of_the_sweeps_file_in_its_order():
    given = ["sweep=minatar_300k", "experiment=dqn,sdqn", "env=minatar_freeway", "threads=2"]
    made = config.planning.combinations(given, config.compose_raw(given, RunMode.MULTIRUN))
    games = "env=minatar_freeway"
    expected = [
        [f"seed={seed}", games, f"experiment={arm}", "sweep=minatar_300k", "threads=2"]
        for seed in range(3)
        for arm in ("dqn", "sdqn")
    ]
    assert made == expected


def test_rows_of_cells_go_together_and_multiply_with_what_is_swept():
    common = config.compose_raw([*TINY, ROWS])
    made = config.planning.combinations([*TINY, ROWS, "seed=0,1"], common)
    ends = [tuple(line.split("=")[1] for line in cell[-3:]) for cell in made]
    assert ends == [
        ("0", "lif", "atan"),
        ("0", "if", "gate"),
        ("1", "lif", "atan"),
        ("1", "if", "gate"),
    ]


def test_a_sweeps_file_may_list_rows_and_its_cells_are_those_of_the_command(
    tmp_path_factory, multirun
):
    folder = tmp_path_factory.mktemp("own")
    (folder / "sweep").mkdir()
    (folder / "sweep" / "pairs.yaml").write_text(
        "# @package _global_\nhydra: {mode: MULTIRUN, sweeper: {params: {seed: '0,1'}}}\n"
        "cells: [{neuron: lif, network.hidden: 8}, {neuron: relu, network.hidden: 4}]\n"
    )
    base = [line for line in TINY if "hidden" not in line]
    answer = multirun(f"--config-dir={folder}", *base, "sweep=pairs", DRY)
    assert answer.code == 0
    assert answer.out.startswith("4 cells in multirun/pairs")


@pytest.mark.parametrize(
    ("given", "key"),
    [
        (["cells=[{neuron:lif},{neuron:if}]", "neuron=lif,relu"], "cells[0].neuron"),
        (["cells=[{neuron:lif,seed:1},{neuron:if}]"], "cells[1]"),
        (["cells=[{neuron:liff}]"], "neuron=liff"),
        (["cells=3"], "cells=3"),
    ],
)
def test_a_row_that_does_not_fit_is_named(given, key, multirun):
    refused(multirun("env=cartpole", *given), key)


def test_a_text_in_a_row_stays_a_text():
    texts = ["plain", "a, b=c", "a,b", 'it\'s "so"', "1", "null", "ünï", "", "[x", "a\\"]
    common = config.compose_raw([*TINY, "tracker=wandb"])
    for text in texts:
        OmegaConf.update(common, "cells", [{"tracker.notes": text, "tracker.tags": [text, "b"]}])
        (cell,) = config.planning.combinations([*TINY, "tracker=wandb"], common)
        tracker = config.compose_raw(cell).tracker
        assert (tracker.notes, tracker.tags) == (text, [text, "b"])


# Configs shown


def test_the_config_of_a_multirun_is_that_of_its_first_cell(multirun):
    answer = multirun("--cfg", "job", "env=minatar_freeway,minatar_asterix", "seed=3,4")
    assert answer.code == 0
    assert "id: freeway" in answer.out
    assert "seed: 3" in answer.out
    assert not list(Path().iterdir())


SHOWN = [["--cfg", "hydra"], ["--info", "searchpath"]]
SHOWN += [["--info", "defaults", "-m", "seed=1,2"]]


@pytest.mark.parametrize("flags", SHOWN)
def test_hydra_shows_what_it_shows_and_nothing_is_made(flags, single):
    answer = single("env=cartpole", *flags)
    assert answer.code == 0
    assert "hydra" in answer.out
    assert not list(Path().iterdir())


def test_hydra_gives_its_own_help_and_nothing_is_made(capsys):
    with pytest.raises(SystemExit) as left:
        run.main(["env=cartpole", "--hydra-help"])
    assert not left.value.code
    assert "hydra" in capsys.readouterr().out
    assert not list(Path().iterdir())


def test_a_run_that_changes_into_its_directory_finds_it_again():
    command = [*TINY, "hydra.run.dir=here", "hydra.job.chdir=true"]
    for _ in range(2):
        assert run.main(command) == 0
        assert RunDirectory("here").state == "finished"
        assert [path.parent.name for path in Path().rglob("metrics.jsonl")] == ["here"]


# Options beside the package's


@pytest.fixture
def own_options(tmp_path_factory) -> Path:
    """A user's folder: an algorithm's option and an experiment, outside the package."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "algo").mkdir()
    (folder / "algo" / "mine.yaml").write_text("defaults: [dqn, _self_]\ngamma: 0.5\n")
    (folder / "experiment").mkdir()
    own = "# @package _global_\ndefaults: [override /norm: none]\n"
    (folder / "experiment" / "plain.yaml").write_text(own)
    return folder


@pytest.mark.parametrize("way", ["--config-dir={}", "hydra.searchpath=[file://{}]"])
def test_own_options_are_found_beside_the_packages(way, own_options, multirun):
    given = [way.format(own_options), *TINY, "env=cartpole", "algo=mine", "experiment=plain"]
    assert run.main([*given, "hydra.run.dir=single"]) == 0
    several = multirun(*given, "seed=0,1", "hydra.sweep.dir=several", "hydra/launcher=basic")
    assert several.code == 0
    stored = [OmegaConf.load(file) for file in Path().glob("s*/**/config.yaml")]
    assert [(cfg.algo.gamma, cfg.choices.norm) for cfg in stored] == [(0.5, "none")] * 3


def test_what_an_algorithms_file_leaves_out_is_the_classs_default_or_asked_for(
    own_options, multirun
):
    (own_options / "algo" / "few.yaml").write_text(
        "_target_: sdqn_lab.agents.dqn.DQN\nnum_envs: 4\niteration_steps: 100\n"
        "replay_start_steps: 60\n"
    )
    (own_options / "algo" / "none.yaml").write_text("_target_: sdqn_lab.agents.dqn.DQN\n")
    found = f"hydra.searchpath=[file://{own_options}]"
    given = [found, "env=cartpole", "budget.steps=200"]
    code, out, _ = multirun(*given, "algo=few", DRY)
    assert code == 0
    assert "200 agent steps, 35 updates" in out
    needs = "algo.num_envs: DQN needs it; write", "algo.iteration_steps: DQN needs it; write"
    refused(multirun(*given, "algo=none"), *needs)


def test_help_lists_options_no_bases_and_those_of_a_search_path(own_options, capsys):
    assert run.main(["--help", f"--config-dir={own_options}"]) == 0
    shown = capsys.readouterr().out.splitlines()
    groups = {line.partition(": ")[0]: line.partition(": ")[2].split(", ") for line in shown}
    assert "mine" in groups["algo"]
    assert "plain" in groups["experiment"]
    assert set(config.GROUPS) <= set(groups)
    assert not [option for group in config.GROUPS for option in groups[group] if option[0] == "_"]


def test_a_config_dir_may_stand_anywhere_and_be_called_anything(own_options, capsys):
    odd = own_options.with_name("a,b=c 'd'")
    own_options.rename(odd)
    given = ["algo=mine", "env=cartpole", "--cfg", "job"]
    for at in (0, 1, 2, 4):
        assert run.main([*given[:at], "--config-dir", str(odd), *given[at:]]) == 0
        assert "gamma: 0.5" in capsys.readouterr().out


@pytest.mark.parametrize("given", [["--config-dir"], ["--config-dir", "nowhere"]])
def test_a_config_dir_that_is_none_is_named(given, multirun):
    refused(multirun(*given), " ".join(given))


def test_a_cell_keeps_the_search_path_and_the_name_that_its_sweep_gave_it(own_options):
    found = f"hydra.searchpath=[file://{own_options}]"
    given = [found, *TINY, "algo=mine", "hydra.sweep.subdir=s${seed}", "seed=5"]
    (cell,) = config.planning.plan_cells(Path("x"), [[*given, "hydra.launcher.processes=2"]])
    assert cell.path == Path("x/s5")
    (again,) = config.planning.plan_cells(Path("x"), [cell.overrides])
    assert (again.path, again.cfg) == (cell.path, cell.cfg)


# References


@pytest.mark.parametrize("key", ["seed", "threads", "checkpoint_every_minutes"])
def test_a_variable_of_the_environment_is_of_the_keys_type(key, monkeypatch):
    monkeypatch.setenv("MINE", "7")
    assert config.compose([*TINY, f"{key}=${{oc.env:MINE}}"])[key] == 7


def test_a_variable_of_the_environment_of_another_type_is_named(monkeypatch, single):
    monkeypatch.setenv("MINE", "x")
    refused(single(*TINY, "seed=${oc.env:MINE}"), "seed=x: must be a whole number")


# Callbacks, and what a job answers


class Noted:
    """A callback that notes what it is called with."""

    events: ClassVar[list[tuple[str, object]]] = []

    def on_run_start(self, config: DictConfig, **_: object) -> None:
        self.events.append(("run", config.seed))

    def on_job_start(self, config: DictConfig, **_: object) -> None:
        self.events.append(("job", HydraConfig.get().runtime.output_dir))

    def on_job_end(self, config: DictConfig, job_return: object, **_: object) -> None:
        self.events.append(("end", job_return.return_value))

    def on_run_end(self, config: DictConfig, **_: object) -> None:
        raise RuntimeError("a callback stops nothing")


def test_callbacks_are_called_and_a_job_answers_with_the_objective():
    Noted.events.clear()
    named = f"+hydra.callbacks.mine._target_={__name__}.Noted"
    with pytest.warns(UserWarning, match="a callback stops nothing"):
        assert run.main([*TINY, named, "hydra.run.dir=here"]) == 0
    value = objective(Path("here/metrics.jsonl"), "eval/return_mean")
    assert Noted.events == [("run", 0), ("job", str(Path("here").absolute())), ("end", value)]


def test_the_objective_is_the_mean_over_the_last_fifth_of_the_steps(tmp_path):
    file = tmp_path / "metrics.jsonl"
    values = [(100, 1.0), (790, 5.0), (800, 2.0), (900, 3.0), (1000, 7.0)]
    records = [{"step": step, "eval/return_mean": value} for step, value in values]
    file.write_text("".join(f"{json.dumps(record)}\n" for record in [*records, {"step": 1000}]))
    assert objective(file, "eval/return_mean") == pytest.approx(4.0)
    with pytest.raises(ValueError, match="eval/return_mean"):
        objective(file, "loss/none")


SWEEPER = """
from hydra.core.config_store import ConfigStore
from hydra.plugins.sweeper import Sweeper
from hydra.core.plugins import Plugins

class Climber(Sweeper):
    def setup(self, *, hydra_context, task_function, config):
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config)
    def sweep(self, arguments):
        jobs = [[*arguments, f"seed={seed}"] for seed in (0, 1)]
        found = [job.return_value for job in self.launcher.launch(jobs, 0)]
        print("climbed", *found, max(found))

node = {"_target_": "hydra_plugins.climber.Climber"}
ConfigStore.instance().store("climber", node, "hydra/sweeper")
"""


@pytest.mark.parametrize("launcher", [pytest.param("local", marks=pytest.mark.slow), "basic"])
def test_a_sweeper_that_searches_is_answered_with_objectives(tmp_path_factory, launcher):
    plugins = tmp_path_factory.mktemp("plugins")
    (plugins / "hydra_plugins").mkdir()
    (plugins / "hydra_plugins" / "climber.py").write_text(SWEEPER)
    here = str(Path(run.__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": f"{plugins}:{here}"}
    given = ["-m", "hydra/sweeper=climber", f"hydra/launcher={launcher}", "hydra.sweep.dir=climb"]
    command = [sys.executable, "-m", "sdqn_lab.run", *given, *[t for t in TINY if "seed" not in t]]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("climbed")]
    found = [float(number) for number in line.split()[1:]]
    cells = sorted(p.parent for p in Path("climb").glob("*/config.yaml"))
    each = [objective(cell / "metrics.jsonl", "eval/return_mean") for cell in cells]
    assert found == [*each, max(each)]
    assert {RunDirectory(cell).state for cell in cells} == {"finished"}
