"""The command as a user meets it: real processes, real games, exit codes and what lies on disk."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from sdqn_lab.runs.directory import RunDirectory
from tests.commands import refused
from tests.launching.sweeps import KEPT, TINY
from tests.launching.sweeps import records as numbers

# The general path, for every process would compile the engine where it is not there yet.
SMALL = ["budget=smoke", "time_window=2", "tracker=none", "threads=1", "backend=fused"]


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "sdqn_lab.run", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


def records(path: Path) -> list[dict]:
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("env", ["seaquest", "minatar_freeway", "acrobot"])
def test_a_smoke_run_has_real_frames_updates_one_evaluation_and_one_checkpoint(env, single):
    assert single(f"env={env}", *SMALL, "hydra.run.dir=here", "keep_state=true").code == 0
    here = Path("here")
    status = RunDirectory(here).status()
    recorded = records(here)
    assert status["state"] == "finished"
    expected = {"host", "pid", "git_sha", "git_dirty", "code", "versions", "cpu", "threads"}
    assert expected <= set(status["attempts"][0])
    dirty = status["attempts"][0]["git_dirty"] or False
    assert (here / "code.diff").exists() == dirty
    assert sum("eval/return_mean" in record for record in recorded) == 1
    assert max(record.get("updates", 0) for record in recorded) > 0
    assert recorded[-1]["frames"] == recorded[-1]["step"] * (4 if env == "seaquest" else 1)
    assert (here / "checkpoint" / "manifest.json").exists()
    assert (here / "health.json").exists()
    config = yaml.safe_load((here / "config.yaml").read_text())
    assert config["choices"]["env"] == env
    assert config["time_window"] == 2
    assert "${" not in (here / "config.yaml").read_text()


def test_a_multirun_names_cells_by_what_they_are_and_ends_with_one_table(multirun):
    arguments = ["env=minatar_breakout,minatar_asterix", *SMALL]
    done = multirun(*arguments)
    assert done.code == 0
    (sweep_dir,) = Path("multirun").iterdir()
    cells = sorted(p.name.rpartition("_")[0] for p in sweep_dir.iterdir() if p.is_dir())
    games = ("minatar_asterix", "minatar_breakout")
    assert cells == [f"{game}_lif_popnorm_atan_T2_seed0" for game in games]
    assert done.out.count("finished") == 2
    assert "protocol: minatar" in done.out
    assert (sweep_dir / "learning-curves.png").stat().st_size > 10_000
    before = {p: p.stat().st_mtime_ns for p in sweep_dir.rglob("metrics.jsonl")}
    again = multirun(*arguments)
    assert again.code == 0
    assert again.err.count("finished already, not touched") == 2
    assert before == {p: p.stat().st_mtime_ns for p in sweep_dir.rglob("metrics.jsonl")}


def test_a_single_run_found_finished_is_answered_in_one_line(single):
    assert single(*TINY).code == 0
    (path,) = Path("outputs").iterdir()
    before = (path / "status.json").read_bytes()
    answer = single(*TINY)
    assert (answer.code, answer.lines) == (0, [f"{path}: finished already, nothing to do"])
    assert (path / "status.json").read_bytes() == before


def test_a_single_run_found_unfinished_is_refused_with_the_command_to_paste(single, finished):
    RunDirectory(finished).update(state="preempted")
    answer = single(*KEPT, "hydra.run.dir=run")
    answer.refuses("error: run: ", "python -m sdqn_lab.run --resume run")


def test_a_directory_that_holds_another_run_is_refused_by_the_key_that_differs(single, finished):
    answer = single(*KEPT, "seed=1", "hydra.run.dir=run")
    answer.refuses("run holds another run (seed=0, not 1)")


def test_two_cells_that_would_share_a_directory_are_refused(multirun):
    answer = multirun(*TINY, "seed=0,1", "hydra.sweep.subdir=same")
    refused(answer, "error: hydra.sweep.subdir: | multirun/ | same (seed=0, not 1)")


@pytest.mark.slow  # half a minute; launchers that are stopped are tried in launching/test_local
def test_a_stop_ends_the_whole_sweep_and_the_cells_after_it_do_not_begin():
    overrides = [
        "-m",
        "env=cartpole",
        "seed=0,1",
        *SMALL,
        "budget.steps=60000",
        "hydra.sweep.dir=here",
    ]
    overrides += ["hydra.launcher.processes=1"]
    process = subprocess.Popen([sys.executable, "-m", "sdqn_lab.run", *overrides])
    while not list(Path("here").glob("*/metrics.jsonl")):
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    states = [RunDirectory(p).state for p in sorted(Path("here").iterdir()) if p.is_dir()]
    assert states == ["preempted", "pending"]
    assert not list(Path("here").glob("*seed1*/log.txt"))


def test_a_table_is_printed_whatever_the_encoding(monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    done = command("-m", "seed=0", *TINY, "hydra/launcher=basic")
    assert "finished" in done.stdout


def test_resume_starts_anew_in_place_where_there_is_no_checkpoint(single):
    assert single(*TINY, "hydra.run.dir=here").code == 0
    before = numbers(Path("here"))
    assert not Path("here/checkpoint").exists()
    RunDirectory("here").update(state="failed")
    assert single("--resume", "here").code == 0
    assert numbers(Path("here")) == before
    assert RunDirectory("here").state == "finished"


def test_health_refuse_stops_a_dead_network_in_one_line(single):
    overrides = ["experiment=pl_sdqn_lecture", "env=minatar_breakout", "health=refuse", *SMALL]
    answer = single(*overrides, "hydra.run.dir=here")
    assert answer.code == 1
    assert "refused: here: dead: no gradient reaches any parameter" in answer.err
    assert "surrogate=quadratic_gate" in answer.err
    assert "surrogate=atan" in answer.err
    assert "Traceback" not in answer.err
    assert RunDirectory("here").state == "failed"
    assert not Path("here/metrics.jsonl").exists()


def test_hydras_own_flags_still_work(single):
    assert "time_window: 2" in single("time_window=2", "--cfg", "job").out
    assert "neuron: alif, bernoulli, if, lif, plif, relu" in single("--help").out
