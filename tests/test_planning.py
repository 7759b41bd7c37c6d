"""What a command asks for: the cells, their cost, and a line for everything that is wrong."""

import os
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from sdqn_lab import config
from sdqn_lab.assembly import build
from sdqn_lab.checks.refused import ConfigError, Refused
from sdqn_lab.config import expand, planning, validation
from sdqn_lab.config.planning import plan_cells
from sdqn_lab.launching import estimate, local
from sdqn_lab.runs.directory import RunDirectory
from tests.commands import printed
from tests.launching.sweeps import TINY, cells_here
from tests.refusals import remedy, subject

DRY = "hydra.launcher.dry_run=true"


def test_cells_keep_the_overrides_that_make_them_and_none_of_the_launchers():
    (cell,) = plan_cells(Path("x"), [[*TINY, "seed=5", "hydra.launcher.processes=2"]])
    assert cell.overrides == [*TINY, "seed=5"]
    assert cell.path.parent == Path("x")
    (again,) = plan_cells(Path("x"), [cell.overrides])
    assert again.path == cell.path


def test_combinations_that_are_the_same_cell_have_the_same_path():
    given = ["env=cartpole", "neuron=relu", "time_window=2,4", "surrogate=atan,sigmoid", "seed=0,1"]
    cells = plan_cells(Path("x"), expand(given))
    assert len(cells) == 8
    assert len({cell.path for cell in cells}) == 2


def test_a_command_composes_anew_what_an_earlier_one_in_the_same_process_composed(own_conf):
    file = own_conf / "experiment" / "mine.yaml"
    for steps in (777, 888):
        file.write_text(f"# @package _global_\nbudget: {{steps: {steps}}}\n")
        planned = planning.plan(["experiment=mine", "seed=0,1"], multirun=True)
        assert {cell.cfg.budget.steps for cell in planned.cells.values()} == {steps}


def test_a_dry_run_counts_cells_and_collapsed_duplicates_and_writes_nothing(multirun):
    grid = ["neuron=relu", "time_window=2,4", "surrogate=atan,sigmoid", "seed=0,1"]
    code, shown, said = multirun(*[w for w in TINY if "window" not in w], *grid, DRY)
    assert (code, said) == (0, "")
    lines = shown.splitlines()
    assert lines[0].startswith("2 cells in multirun/")
    assert "asked for: 8 combinations, 6 of them duplicates that collapse" in lines[1]
    assert "to run: 2, finished already: 0" in lines[2]
    assert "400 agent steps" in lines[3]
    assert lines[-1] == "nothing was started"
    assert not list(Path().iterdir())


def test_a_dry_run_leaves_out_what_is_finished(multirun):
    given = [*TINY, "seed=0,1", "hydra.sweep.dir=here"]
    cell, _ = plan_cells(Path("here"), expand(given))
    cell.path.mkdir(parents=True)
    (cell.path / "config.yaml").write_text(OmegaConf.to_yaml(cell.cfg))
    RunDirectory(cell.path).update(state="finished")
    before = sorted(Path().rglob("*"))
    assert "to run: 1, finished already: 1" in multirun(*given, DRY)[1]
    assert sorted(Path().rglob("*")) == before


def test_a_dry_run_for_a_cluster_tells_its_jobs_also_far_from_it(multirun, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    given = [*TINY, "seed=range(5)", "hydra/launcher=slurm", "hydra.launcher.cells_per_task=2"]
    code, shown, _ = multirun(*given, DRY)
    assert code == 0
    assert "SLURM: 3 jobs of 2 cells, at most 256 at once, time limit 240 min" in shown
    assert "WARNING SLURM cannot be asked from here" in shown
    assert not list(Path().iterdir())


def refused_plan(*overrides: str) -> list[Refused]:
    with pytest.raises(ConfigError) as error:
        planning.plan(list(overrides), multirun=True)
    return error.value.problems


def test_a_key_that_one_of_the_options_lacks_is_refused_by_the_name_of_the_option():
    problems = refused_plan("env=cartpole", "neuron=lif,if", "neuron.tau=2,3")
    assert list(map(subject, problems)) == ["neuron.tau=2", "neuron.tau=3"]
    assert all("option if of neuron" in problem.rule for problem in problems)


LAUNCHERS = [
    ("hydra.launcher.processes=0", ">= 1", "null"),
    ("hydra.launcher.processes=abc", "", "null"),
    ("hydra.launcher.processes=1.5", "", "null"),
    ("hydra.launcher.gpus=-1", ">= 0", "null"),
    ("hydra.launcher.dry_run=perhaps", "", "false"),
    ("hydra.launcher.proceses=2", "processes?", ""),
    ("+hydra.launcher.foo=2", "LocalLauncher", ""),
    ("hydra/launcher=slurmm", "slurm?", ""),
    ("SLURM timeout_min=0", ">= 1", "240"),
    ("SLURM cells_per_task=0", ">= 1", "1"),
    ("SLURM array_parallelism=0", ">= 1", "256"),
    ("SLURM cpus_per_task=0", ">= 1", "2"),
    ("SLURM max_num_timeout=-1", ">= 0", "100"),
    ("SLURM poll_seconds=0", "> 0", "10.0"),
    ("SLURM signal_delay_s=0", "(7200 s)", "3600"),
    ("SLURM timeout_min=2 hydra.launcher.signal_delay_s=60", "(60 s)", "30"),
]


@pytest.mark.parametrize(("given", "named", "instead"), LAUNCHERS, ids=[r[0] for r in LAUNCHERS])
def test_a_wrong_launcher_is_refused_with_the_key_and_what_to_write(given, named, instead):
    overrides = given.replace("SLURM ", "hydra/launcher=slurm hydra.launcher.").split()
    (problem,) = refused_plan(*TINY, "seed=0,1", *overrides)
    wrong = overrides[-1].lstrip("+")
    assert subject(problem) == wrong
    assert named in problem.rule
    assert remedy(problem) == (f"{wrong.partition('=')[0]}={instead}" if instead else "")


def test_parameters_of_slurm_that_the_launcher_sets_itself_are_refused_by_name():
    given = "hydra.launcher.additional_parameters={nice:1,job_name:x}"
    (problem,) = refused_plan(*TINY, "hydra/launcher=slurm", given)
    assert problem.key == "hydra.launcher.additional_parameters"
    assert problem.value == {"nice": 1, "job_name": "x"}
    assert "job-name" in problem.rule
    assert "{nice: 1" in problem.instead


def test_a_wrong_launcher_is_answered_in_one_line(multirun):
    wrong = "hydra.launcher.processes=0"
    printed(multirun(*TINY, "seed=0,1", wrong), wrong, "hydra.launcher.processes=null")


@pytest.mark.parametrize("subdir", ["a/b", "/a", "."])
def test_a_cell_below_or_outside_the_sweeps_directory_is_refused(multirun, subdir):
    answer = multirun(*TINY, "seed=0", f"hydra.sweep.subdir={subdir}")
    printed(answer, f"hydra.sweep.subdir={subdir}", "a name without /")


def test_a_cluster_far_away_is_one_line_and_its_sweep_can_be_run_here(multirun, monkeypatch):
    given = [*TINY, "seed=0", "hydra.sweep.dir=here"]
    with monkeypatch.context() as context:
        context.setenv("PATH", os.devnull)
        code, shown, said = multirun(*given, "hydra/launcher=slurm")
    assert (code, shown) == (1, "")
    assert said == "error: sbatch: no such command; submit from a machine of the cluster\n"
    with cells_here():
        assert multirun(*given, "hydra/launcher=local")[0] == 0
    assert [RunDirectory(p).state for p in Path("here").iterdir() if p.is_dir()] == ["finished"]


def test_a_cluster_runs_sweeps_alone_and_a_single_run_for_it_is_refused(single):
    answer = single(*TINY, "hydra/launcher=slurm")
    printed(answer, "hydra/launcher=slurm", "-m before the overrides")


@pytest.mark.parametrize("flags", [["-m"], []], ids=["sweep", "single"])
@pytest.mark.parametrize("device", ["cpu", "cuda", "cuda:1"])
def test_a_cluster_may_have_a_device_that_is_not_here(single, flags, device):
    answer = single(*flags, *TINY, "hydra/launcher=slurm", f"device={device}", DRY)
    assert answer.code == 0
    assert "to run: 1, finished already: 0" in answer.out
    measured = "steps/s" in answer.out
    assert measured == (device == "cpu")
    assert measured != ("times not measured" in answer.out)
    assert "Traceback" not in answer.err


def test_a_cluster_has_no_device_that_there_is_not(multirun):
    answer = multirun(*TINY, "hydra/launcher=slurm", "device=gpu", DRY)
    printed(answer, "device=gpu", "device=auto")


def test_cells_on_this_machine_need_their_device_here(multirun):
    answer = multirun(*TINY, "device=cuda", "seed=0,1")
    printed(answer, "device=cuda", "device=cpu or device=auto")


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(122, "Quota")])
def test_a_sweep_that_cannot_be_written_after_all_is_one_line(multirun, monkeypatch, error):
    def denied(sweep_dir: Path) -> None:
        raise error

    monkeypatch.setattr(local, "locked", denied)
    code, shown, said = multirun(*TINY, "seed=0")
    assert (code, shown, said) == (1, "", f"error: {error}\n")


@pytest.mark.parametrize("steps", [101, 106, 400])
def test_a_dry_run_ends_however_few_updates_there_are(steps, multirun):
    given = ["env=cartpole", "algo.replay_start_steps=100", "algo.replay_capacity_steps=200"]
    assert multirun(*given, f"budget.steps={steps}", DRY)[0] == 0


@pytest.mark.parametrize("experiment", ["dqn", "pqn"])
def test_the_time_of_a_cell_counts_its_updates_but_not_the_first_which_compiles(
    experiment, monkeypatch
):
    cfg = config.compose(["env=cartpole", f"experiment={experiment}", "budget=short"])
    agent, seconds, calls = build.build_agent(cfg, validation.env_spec(cfg)), [0.0], []

    def slow(work, first, later):
        def run(*args):
            seconds[0] += later if work in calls else first
            calls.append(work)
            return work(*args)

        return run

    monkeypatch.setattr(agent, "act", slow(agent.act, 50.0, 0.01))
    monkeypatch.setattr(agent, "update", slow(agent.update, 100.0, 0.04))
    monkeypatch.setattr(estimate, "now", lambda: seconds[0])
    step, update = estimate.training_seconds(cfg, agent)
    # Steps that only start an episode are none of the agent's.
    assert step == pytest.approx(0.01 / cfg.algo.num_envs, rel=0.1)
    assert update == pytest.approx(0.04)
    monkeypatch.setattr(build, "build_agent", lambda *_: agent)
    monkeypatch.setattr(estimate, "training_seconds", lambda *_: (0.01, 0.04))
    monkeypatch.setattr(estimate, "evaluation_seconds", lambda *_: 3.0)
    updates = {"dqn": 29_000 // 4, "pqn": 30_000 // 512 * 16}[experiment]
    expected = estimate.START_SECONDS + 0.01 * 30_000 + 0.04 * updates + 3.0 * 5
    assert estimate.cell_seconds(cfg) == pytest.approx(expected)
