"""What a command asks for: the cells, their cost, and a line for everything that is wrong."""

import os
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from sdqn_lab import run
from sdqn_lab.config import Composer, compose_raw, expand, planning
from sdqn_lab.config.planning import plan_cells
from sdqn_lab.config.validation import ConfigError
from sdqn_lab.launching import local
from sdqn_lab.runs.directory import RunDirectory
from tests.launching.sweeps import TINY

DRY = "hydra.launcher.dry_run=true"


@pytest.fixture
def command(capsys):
    """Run a command in this process: its exit code, what it printed, the lines of its complaint."""

    def answer(*words: str) -> tuple[int, str, list[str]]:
        capsys.readouterr()
        code = run.main(["-m", *words])
        said = capsys.readouterr()
        return code, said.out, said.err.splitlines()

    return answer


def refused(answer: tuple[int, str, list[str]], *problems: str) -> None:
    """Exactly these problems, each a line that holds all its words; nothing is left behind."""
    code, out, lines = answer
    assert (code, out, len(lines)) == (2, "", len(problems)), lines
    for line, words in zip(lines, problems, strict=True):
        assert line.startswith("error: ")
        assert all(word in line for word in words.split(" | ")), line
    assert not list(Path().iterdir())


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
]


@pytest.mark.parametrize("words", SETS)
def test_many_cells_are_composed_to_what_each_alone_would_be(words):
    composer, overrides = Composer(), words.split()
    expected = OmegaConf.to_yaml(compose_raw(overrides))
    assert OmegaConf.to_yaml(composer.compose_raw(overrides)) == expected
    composer.compose_raw([*overrides, "seed=99", "algo.gamma=0.1"])
    assert OmegaConf.to_yaml(composer.compose_raw(overrides)) == expected, "after another cell"


@pytest.mark.parametrize(
    "words",
    ["neuron=if neuron.tau=2", "algo.gama=1", "seed=abc", "nuron=lif", "norm=pop", "foo", "~norm"],
)
def test_a_wrong_cell_among_many_is_answered_as_one_alone(words):
    composer = Composer()
    composer.compose_raw(["neuron=if"])
    with pytest.raises(ConfigError) as alone:
        compose_raw(words.split())
    with pytest.raises(ConfigError) as among:
        composer.compose_raw(words.split())
    assert among.value.problems == alone.value.problems


def test_cells_keep_the_overrides_that_make_them_and_none_of_the_launchers():
    (cell,) = plan_cells(Path("x"), [[*TINY, "seed=5", "hydra.launcher.processes=2"]])
    assert cell.overrides == [*TINY, "seed=5"]
    assert cell.path.parent == Path("x")
    (again,) = plan_cells(Path("x"), [cell.overrides])
    assert again.path == cell.path


def test_combinations_that_are_the_same_cell_have_the_same_path():
    words = ["env=cartpole", "neuron=relu", "time_window=2,4", "surrogate=atan,sigmoid", "seed=0,1"]
    cells = plan_cells(Path("x"), expand(words))
    assert len(cells) == 8
    assert len({cell.path for cell in cells}) == 2


def test_a_command_composes_anew_what_an_earlier_one_in_the_same_process_composed(
    command, monkeypatch
):
    assert command(*TINY, "seed=0", DRY)[0] == 0
    seen = []
    monkeypatch.setattr(planning, "validate", lambda cfg, here: seen.append(cfg))
    assert command(*TINY, "seed=0", DRY)[0] == 0
    assert len(seen) == 1


def test_a_dry_run_counts_cells_and_collapsed_duplicates_and_writes_nothing(command):
    grid = ["neuron=relu", "time_window=2,4", "surrogate=atan,sigmoid", "seed=0,1"]
    code, shown, complaint = command(*[w for w in TINY if "window" not in w], *grid, DRY)
    assert (code, complaint) == (0, [])
    lines = shown.splitlines()
    assert lines[0].startswith("2 cells in multirun/")
    assert "asked for: 8 combinations, 6 of them duplicates that collapse" in lines[1]
    assert "to run: 2, finished already: 0" in lines[2]
    assert "400 agent steps" in lines[3]
    assert lines[-1] == "nothing was started"
    assert not list(Path().iterdir())


def test_a_dry_run_leaves_out_what_is_finished(command):
    words = [*TINY, "seed=0,1", "hydra.sweep.dir=here"]
    cell, _ = plan_cells(Path("here"), expand(words))
    cell.path.mkdir(parents=True)
    (cell.path / "config.yaml").write_text(OmegaConf.to_yaml(cell.cfg))
    RunDirectory(cell.path).update(state="finished")
    before = sorted(Path().rglob("*"))
    assert "to run: 1, finished already: 1" in command(*words, DRY)[1]
    assert sorted(Path().rglob("*")) == before


def test_a_dry_run_for_a_cluster_tells_its_jobs_also_far_from_it(command, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    words = [*TINY, "seed=range(5)", "hydra/launcher=slurm", "hydra.launcher.cells_per_task=2"]
    code, shown, _ = command(*words, DRY)
    assert code == 0
    assert "SLURM: 3 jobs of 2 cells, at most 256 at once, time limit 240 min" in shown
    assert "WARNING SLURM cannot be asked from here" in shown
    assert not list(Path().iterdir())


def test_a_key_that_one_of_the_options_lacks_is_refused_by_the_name_of_the_option(command):
    refused(
        command("env=cartpole", "neuron=lif,if", "neuron.tau=2,3"),
        "neuron.tau=2: | option if of neuron has no key tau",
        "neuron.tau=3: | option if of neuron has no key tau",
    )


LAUNCHERS = [
    ("hydra.launcher.processes=0", "hydra.launcher.processes=0: must be >= 1 | write"),
    ("hydra.launcher.processes=abc", "hydra.launcher.processes=abc: must be | write"),
    ("hydra.launcher.processes=1.5", "hydra.launcher.processes=1.5: must be | write"),
    ("hydra.launcher.gpus=-1", "hydra.launcher.gpus=-1: must be >= 0 | write 0 for the CPU"),
    ("hydra.launcher.dry_run=perhaps", "hydra.launcher.dry_run=perhaps: must be | write"),
    ("hydra.launcher.proceses=2", "hydra.launcher.proceses=2: | did you mean processes?"),
    ("+hydra.launcher.foo=2", "hydra.launcher.foo=2: LocalLauncher has no argument foo"),
    ("hydra/launcher=slurmm", "hydra/launcher=slurmm: no such option; did you mean slurm?"),
    ("SLURM timeout_min=0", "hydra.launcher.timeout_min=0: must be >= 1 | write 1 or more"),
    ("SLURM cells_per_task=0", "hydra.launcher.cells_per_task=0: must be >= 1 | write 1"),
    ("SLURM array_parallelism=0", "hydra.launcher.array_parallelism=0: must be >= 1"),
    ("SLURM cpus_per_task=0", "hydra.launcher.cpus_per_task=0: must be >= 1"),
    ("SLURM max_num_timeout=-1", "hydra.launcher.max_num_timeout=-1: must be >= 0"),
    ("SLURM poll_seconds=0", "hydra.launcher.poll_seconds=0: must be > 0 | write 10"),
    ("SLURM signal_delay_s=0", "hydra.launcher.signal_delay_s=0: must lie above 0"),
    (
        "SLURM additional_parameters={nice:1,job_name:x}",
        "hydra.launcher.additional_parameters= | must leave out job-name | write the launcher's",
    ),
    (
        "SLURM timeout_min=2 hydra.launcher.signal_delay_s=60",
        "hydra.launcher.signal_delay_s=60: must lie | half the time limit (60 s) | write 30",
    ),
]


@pytest.mark.parametrize(("words", "problem"), LAUNCHERS, ids=[words for words, _ in LAUNCHERS])
def test_a_wrong_launcher_is_refused_in_one_line(command, words, problem):
    given = words.replace("SLURM ", "hydra/launcher=slurm hydra.launcher.").split()
    refused(command(*TINY, "seed=0,1", *given), problem)


@pytest.mark.parametrize("subdir", ["a/b", "/a", "."])
def test_a_cell_below_or_outside_the_sweeps_directory_is_refused(command, subdir):
    answer = command(*TINY, "seed=0", f"hydra.sweep.subdir={subdir}")
    refused(answer, f"hydra.sweep.subdir={subdir}: cells lie side by side; write a name")


def test_a_cluster_far_away_is_one_line_and_its_sweep_can_be_run_here(command, monkeypatch):
    words = [*TINY, "seed=0", "hydra.sweep.dir=here"]
    with monkeypatch.context() as context:
        context.setenv("PATH", os.devnull)
        code, shown, complaint = command(*words, "hydra/launcher=slurm")
    assert (code, shown) == (1, "")
    assert complaint == ["error: sbatch: no such command; submit from a machine of the cluster"]
    assert command(*words, "hydra/launcher=local")[0] == 0
    assert [RunDirectory(p).state for p in Path("here").iterdir() if p.is_dir()] == ["finished"]


def test_a_cluster_runs_sweeps_alone_and_a_single_run_for_it_is_refused(capsys):
    assert run.main([*TINY, "hydra/launcher=slurm"]) == 2
    said = capsys.readouterr()
    line = "error: hydra/launcher=slurm: starts sweeps; write -m before the overrides\n"
    assert (said.out, said.err) == ("", line)
    assert not list(Path().iterdir())


@pytest.mark.parametrize("multirun", [["-m"], []], ids=["sweep", "single"])
@pytest.mark.parametrize("device", ["cpu", "cuda", "cuda:1"])
def test_a_cluster_may_have_a_device_that_is_not_here(capsys, monkeypatch, multirun, device):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    words = [*multirun, *TINY, "hydra/launcher=slurm", f"device={device}", DRY]
    assert run.main(words) == 0
    said = capsys.readouterr()
    assert "to run: 1, finished already: 0" in said.out
    measured = "steps/s" in said.out
    assert measured == (device == "cpu")
    assert measured != (
        "times not measured: this machine does not have the cells' device" in said.out
    )
    assert "Traceback" not in said.err


def test_a_cluster_has_no_device_that_there_is_not(command):
    refused(command(*TINY, "hydra/launcher=slurm", "device=gpu", DRY), "device=gpu: must be auto")


def test_cells_on_this_machine_need_their_device_here(command, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    problem = "device=cuda: this machine has 0 CUDA devices; write device=cpu or device=auto"
    refused(command(*TINY, "device=cuda", "seed=0,1"), problem)


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(122, "Quota")])
def test_a_sweep_that_cannot_be_written_after_all_is_one_line(command, monkeypatch, error):
    def denied(sweep_dir: Path) -> None:
        raise error

    monkeypatch.setattr(local, "locked", denied)
    code, shown, complaint = command(*TINY, "seed=0")
    assert (code, shown, complaint) == (1, "", [f"error: {error}"])


# What Hydra's documentation promises of a command line


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
def test_every_discrete_sweep_of_hydras_makes_its_cells(sweep, cells, command):
    code, out, _ = command("env=cartpole", *TINY, sweep, DRY)
    assert code == 0
    assert out.startswith(f"{cells} cells in ")


@pytest.mark.parametrize(
    ("sweep", "problem"),
    [
        ("env=glob(zzz*)", "env=glob(zzz*): fits no option; write env=OPTION"),
        (
            "time_window=interval(1,4)",
            "time_window=interval(1,4): an interval has no values | write",
        ),
    ],
)
def test_a_sweep_without_values_is_answered_in_one_line(sweep, problem, command):
    refused(command("env=cartpole", sweep), problem)


def test_the_config_of_a_multirun_is_that_of_its_first_cell(command):
    code, out, _ = command("--cfg", "job", "env=minatar_freeway,minatar_asterix", "seed=3,4")
    assert code == 0
    assert "id: freeway" in out
    assert "seed: 3" in out
    assert not list(Path().iterdir())


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
def test_own_options_are_found_beside_the_packages(way, own_options, command, monkeypatch):
    found = way.format(own_options)
    words = [found, *TINY, "env=cartpole", "algo=mine", "experiment=plain"]
    assert run.main([*words, "hydra.run.dir=single"]) == 0
    assert command(*words, "seed=0,1", "hydra.sweep.dir=several", "hydra/launcher=basic")[0] == 0
    stored = [OmegaConf.load(file) for file in Path().glob("s*/**/config.yaml")]
    assert [(cfg.algo.gamma, cfg.choices.norm) for cfg in stored] == [(0.5, "none")] * 3


def test_a_config_dir_may_stand_anywhere_and_be_called_anything(own_options, capsys):
    odd = own_options.with_name("a,b=c 'd'")
    own_options.rename(odd)
    words = ["algo=mine", "env=cartpole", "--cfg", "job"]
    for at in range(3):
        assert run.main([*words[:at], "--config-dir", str(odd), *words[at:]]) == 0
        assert "gamma: 0.5" in capsys.readouterr().out


def test_what_an_algorithms_file_leaves_out_is_the_classs_default_or_asked_for(
    own_options, command
):
    (own_options / "algo" / "few.yaml").write_text(
        "_target_: sdqn_lab.agents.dqn.DQN\nnum_envs: 4\niteration_steps: 100\n"
        "replay_start_steps: 60\n"
    )
    (own_options / "algo" / "none.yaml").write_text("_target_: sdqn_lab.agents.dqn.DQN\n")
    found = f"hydra.searchpath=[file://{own_options}]"
    words = [found, "env=cartpole", "budget.steps=200"]
    code, out, _ = command(*words, "algo=few", DRY)
    assert code == 0
    assert "200 agent steps, 35 updates" in out
    needs = "algo.num_envs: DQN needs it; write", "algo.iteration_steps: DQN needs it; write"
    refused(command(*words, "algo=none"), *needs)


@pytest.mark.parametrize("steps", [101, 106, 400])
def test_a_dry_run_ends_however_few_updates_there_are(steps, command):
    words = ["env=cartpole", "algo.replay_start_steps=100", "algo.replay_capacity_steps=200"]
    assert command(*words, f"budget.steps={steps}", DRY)[0] == 0


def test_a_config_dir_that_is_none_is_named(command):
    refused(command("--config-dir"), "--config-dir: no such directory; write --config-dir DIR")
    refused(command("--config-dir", "nowhere"), "--config-dir nowhere: no such directory")
