"""Whole cells with a tracker: what a command leaves in W&B and TensorBoard."""

import json

import pytest

from sdqn_lab.run import main
from sdqn_lab.tracking.metrics import read_metrics
from sdqn_lab.training.loop import Trainer
from tests.tracking.wandb_file import offline_runs

TINY = ["env=cartpole", "budget=smoke", "time_window=2", "threads=1", "health=off"]
TINY += ["budget.steps=500", "algo.iteration_steps=500", "budget.log_every_steps=100"]
TINY += ["algo.replay_start_steps=450", "network.hidden=8"]


def test_a_command_is_mirrored_to_wandb_unless_told_otherwise(tmp_path):
    assert main([*TINY, "hydra.run.dir=cell"]) == 0
    (segment,) = offline_runs(tmp_path / "cell")
    assert segment.records == read_metrics(tmp_path / "cell" / "metrics.jsonl")
    assert segment.config["choices"]["env"] == "cartpole"
    assert (segment.run.run_group, segment.exit_code) == ("", 0)


def test_a_serial_multirun_makes_one_run_a_cell_grouped_by_its_sweep(tmp_path, server):
    assert main(["-m", *TINY, "seed=0,1", "hydra.sweep.dir=sweeps/seeds"]) == 0
    cells = {path.parent.name: path for path in tmp_path.glob("sweeps/seeds/*/metrics.jsonl")}
    runs = {run.name: run for run in server.runs.values()}
    assert len(cells) == 2
    assert set(runs) == set(cells)
    for name, run in runs.items():
        assert run.records == read_metrics(cells[name])
        assert (run.group, run.exit_code) == ("seeds", 0)
        assert run.config["seed"]["value"] == int(name.split("seed")[1][0])


def test_a_cell_that_fails_is_failed_in_wandb(tmp_path, monkeypatch):
    def broken(self):
        raise RuntimeError("out of luck")

    monkeypatch.setattr(Trainer, "run", broken)
    assert main([*TINY, "hydra.run.dir=cell"]) == 1
    (segment,) = offline_runs(tmp_path / "cell")
    assert segment.exit_code == 1


def test_a_server_that_dies_stops_no_training(tmp_path, server, capsys):
    server.die_at_first_record = True
    keys = ["tracker.finish_timeout_seconds=2", "hydra.run.dir=cell"]
    assert main([*TINY, *keys]) == 0
    assert json.loads((tmp_path / "cell" / "status.json").read_text())["state"] == "finished"
    assert capsys.readouterr().err.count("WARNING") == 1


def test_tracker_tensorboard_writes_event_files_and_none_writes_nothing(tmp_path):
    assert main([*TINY, "tracker=tensorboard", "hydra.run.dir=board"]) == 0
    assert list((tmp_path / "board" / "tensorboard").glob("events.*"))
    assert main([*TINY, "tracker=none", "hydra.run.dir=bare"]) == 0
    names = {path.name for path in (tmp_path / "bare").iterdir()}
    assert not names & {"wandb", "tensorboard"}


@pytest.mark.parametrize(
    "override", ["tracker.mode=never", "tracker.project=3", "tracker.finish_timeout_seconds=soon"]
)
def test_a_wrong_tracker_key_is_refused(tmp_path, override, capsys):
    assert main([*TINY, override]) == 2
    assert override.split("=")[0] in capsys.readouterr().err
    assert not (tmp_path / "outputs").exists()
