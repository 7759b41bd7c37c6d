"""Whole cells with a tracker: what a command leaves in W&B and TensorBoard."""

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from sdqn_lab import sweep
from sdqn_lab.run import main
from sdqn_lab.runs.directory import RunDirectory
from sdqn_lab.runs.metrics import read_metrics
from sdqn_lab.tracking import follow
from sdqn_lab.training.trainer import Trainer
from tests.launching.sweeps import cells_here
from tests.tracking.runs import TINY, delivered_all, wait_until
from tests.tracking.wandb_file import offline_runs

CLOCK = {"wall_seconds", "time/steps_per_second", "time/checkpoint_seconds"}


def run(*arguments, code=0):
    """The command, and then its followers to their end: the run waits for them a moment only."""
    assert main([*arguments, *TINY]) == code
    for lock in Path.cwd().rglob(".tracker.lock"):
        wait_until(partial(delivered_all, RunDirectory(lock.parent)))


def numbers(cell):
    """The record without its clock."""
    lines = read_metrics(cell / "metrics.jsonl")
    return [{key: value for key, value in line.items() if key not in CLOCK} for line in lines]


def test_a_command_is_tracked_by_wandb_unless_it_names_another(tmp_path):
    run("hydra.run.dir=cell")
    (segment,) = offline_runs(tmp_path / "cell")
    assert segment.records == read_metrics(tmp_path / "cell" / "metrics.jsonl")
    assert segment.config["choices"]["env"] == "cartpole"
    assert (segment.run.run_group, segment.exit_code) == ("", 0)


def test_a_multirun_makes_one_run_a_cell_grouped_by_its_sweep(tmp_path, server):
    with cells_here():
        run("-m", "seed=0,1", "hydra.sweep.dir=sweeps/seeds")
    cells = {path.parent.name: path for path in tmp_path.glob("sweeps/seeds/*/metrics.jsonl")}
    runs = {run.name: run for run in server.runs.values()}
    assert len(cells) == 2
    assert set(runs) == set(cells)
    for name, found in runs.items():
        assert found.records == read_metrics(cells[name])
        assert (found.group, found.exit_code) == ("seeds", 0)
        assert found.config["seed"]["value"] == int(name.split("seed")[1][0])


def test_cells_that_take_turns_in_one_process_have_a_run_each(tmp_path, server):
    run("-m", "seed=0,1", "hydra.sweep.dir=turns", "hydra/launcher=basic")
    assert len(server.runs) == 2
    assert {found.exit_code for found in server.runs.values()} == {0}


def test_a_cell_that_fails_is_failed_in_wandb(tmp_path, monkeypatch):
    def broken(self):
        raise RuntimeError("out of luck")

    monkeypatch.setattr(Trainer, "run", broken)
    run("hydra.run.dir=cell", code=1)
    (segment,) = offline_runs(tmp_path / "cell")
    assert segment.exit_code == 1


def test_a_server_that_dies_changes_no_number_and_no_exit_code(tmp_path, server, capsys):
    server.die_at_first_record = True
    assert main([*TINY, "tracker.finish_timeout_seconds=2", "hydra.run.dir=cell"]) == 0
    assert capsys.readouterr().err.count("WARNING") == 1
    assert json.loads((tmp_path / "cell" / "status.json").read_text())["state"] == "finished"
    assert main([*TINY, "tracker=none", "hydra.run.dir=bare"]) == 0
    assert numbers(tmp_path / "cell") == numbers(tmp_path / "bare")


def test_a_follower_that_cannot_be_started_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(follow.sys, "executable", "/nowhere/python")
    assert main([*TINY, "hydra.run.dir=cell"]) == 0
    assert capsys.readouterr().err.count("WARNING") == 1


def started(root, *arguments):
    """The command as a process of its own, which writes what it says to a file."""
    command = [sys.executable, "-m", "sdqn_lab.run", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    with Path("said").open("a") as said:
        return subprocess.Popen(command, env=environment, stderr=said, start_new_session=True)


LONG = [*TINY, "budget.steps=1000000", "algo.iteration_steps=400", "algo.learn_every_steps=400"]
LONG += ["hydra.run.dir=cell"]


@pytest.mark.parametrize("name", [pytest.param("SIGKILL", marks=pytest.mark.slow), "SIGTERM"])
def test_a_run_that_is_signalled_and_continued_is_one_run_with_each_line_once(
    tmp_path, server, pytestconfig, name
):
    """The signal goes to the whole group, as from a terminal or a scheduler."""
    cell = RunDirectory(tmp_path / "cell")
    process = started(pytestconfig.rootpath, *LONG)
    wait_until(lambda: server.runs and (cell.checkpoint / "manifest.json").exists())
    os.killpg(process.pid, getattr(signal, name))
    process.wait()
    written = len(read_metrics(cell.metrics))
    again = started(pytestconfig.rootpath, "--resume", "cell")
    # What was written after the checkpoint is written again, and then goes on.
    wait_until(lambda: len(read_metrics(cell.metrics)) > written)
    again.terminate()
    assert again.wait() == 143
    wait_until(lambda: delivered_all(cell))
    found = server.run()
    assert found.received == len(found.lines) == len(read_metrics(cell.metrics))
    steps = [line["step"] for line in found.records]
    assert steps == [line["step"] for line in read_metrics(cell.metrics)]
    assert (found.exit_code, found.preempting) == (143, True)
    assert "WARNING" not in (tmp_path / "said").read_text()
    assert sweep.main(["sync", str(cell.path)]) == 0
    assert found.received == len(found.lines)


def test_tracker_tensorboard_writes_event_files_and_none_writes_nothing(tmp_path):
    run("tracker=tensorboard", "hydra.run.dir=board")
    assert list((tmp_path / "board" / "tensorboard").glob("events.*"))
    run("tracker=none", "hydra.run.dir=bare")
    names = {path.name for path in (tmp_path / "bare").iterdir()}
    assert names.isdisjoint({"wandb", "tensorboard", "tracker.json", "tracker.log"})


MINE = """
from sdqn_lab.tracking.tracker import Tracker


class Mine(Tracker):
    def __init__(self, *, file: str) -> None:
        self.file = file

    def open(self, run):
        self.lines = open(run.directory / self.file, "a")
        return run.delivered

    def log(self, index, record):
        print(index, record["step"], file=self.lines)

    def close(self, exit_code):
        self.lines.close()
"""


def test_a_tracker_of_ones_own_is_a_class_and_an_option(tmp_path, monkeypatch):
    (tmp_path / "own_steps.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    run(
        "tracker=none",
        "tracker._target_=own_steps.Mine",
        "+tracker.file=steps",
        "hydra.run.dir=cell",
    )
    steps = [line["step"] for line in read_metrics(tmp_path / "cell" / "metrics.jsonl")]
    written = [f"{index} {step}" for index, step in enumerate(steps)]
    assert (tmp_path / "cell" / "steps").read_text().splitlines() == written


@pytest.mark.parametrize(
    "override",
    [
        "tracker.mode=never",
        "tracker.project=3",
        "tracker.finish_timeout_seconds=soon",
        "tracker.notes=[a]",
        "tracker._target_=pathlib.Path",
    ],
)
def test_a_wrong_tracker_key_is_refused(tmp_path, override, capsys):
    assert main([*TINY, override]) == 2
    assert override.split("=")[0] in capsys.readouterr().err
    assert not (tmp_path / "outputs").exists()
