"""What one SLURM job makes of its cells; a few lines of shell stand in for a cell."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from sdqn_lab.launching import queue, task
from sdqn_lab.launching.task import CellsFailedError, CellsTask
from sdqn_lab.runs.stopping import BUSY_EXIT
from tests.launching.sweeps import FINISHES, cell, let_cells_do, states

SWEEP, FOLDER = Path("sweep"), Path("folder")
COUNTS = "echo x >> $4/starts"


@pytest.fixture(autouse=True)
def cells_do(tmp_path_factory, monkeypatch) -> Callable[[str], None]:
    folder = tmp_path_factory.mktemp("program")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    monkeypatch.setattr(task, "RETRY_SECONDS", 0.0)
    SWEEP.mkdir()
    FOLDER.mkdir()
    return lambda body: let_cells_do(body, folder, monkeypatch)


def work(*names: str) -> None:
    CellsTask(SWEEP, FOLDER, list(names), 10, 60, 1)()


def starts(name: str) -> int:
    file = SWEEP / name / "starts"
    return len(file.read_text().split()) if file.exists() else 0


def test_cells_that_left_without_a_state_of_their_own_are_tried_again_and_only_they(cells_do):
    busy = f"[ $(wc -l < $4/starts) -lt 3 ] && exit {BUSY_EXIT}"
    cells_do(f"{COUNTS}; case $4 in */b) {busy};; esac; {FINISHES}")
    for name in "ab":
        cell(SWEEP / name, "pending")
    work("a", "b")
    assert states(SWEEP) == ["finished"] * 2
    assert (starts("a"), starts("b")) == (1, 3)


def test_such_a_cell_has_another_chance_however_long_its_neighbours_work(cells_do, monkeypatch):
    monkeypatch.setattr(task, "LEFT_OVER_SECONDS", 0.0)
    cells_do(f"{COUNTS}; [ $(wc -l < $4/starts) -gt 1 ] || exit {BUSY_EXIT}; {FINISHES}")
    cell(SWEEP / "a", "pending")
    work("a")
    assert states(SWEEP) == ["finished"]


def test_such_a_cell_does_not_keep_its_job_for_ever(cells_do, monkeypatch):
    monkeypatch.setattr(task, "LEFT_OVER_SECONDS", 0.0)
    cells_do(f"{COUNTS}; [ $(wc -l < $4/starts) -gt 4 ] || exit {BUSY_EXIT}; {FINISHES}")
    cell(SWEEP / "a", "pending")
    with pytest.raises(CellsFailedError, match=r"^1 of 1 did not finish: a \(pending\)$"):
        work("a")
    assert starts("a") == 2


def test_a_job_whose_cells_did_not_finish_fails_and_names_them(cells_do):
    cells_do(f"case $4 in */bad) exit 5;; esac; {FINISHES}")
    cell(SWEEP / "good", "pending")
    cell(SWEEP / "bad", "pending")
    problem = r"^2 of 3 did not finish: bad \(failed\), gone \(missing\)$"
    with pytest.raises(CellsFailedError, match=problem):
        work("good", "bad", "gone")
    assert states(SWEEP) == ["failed", "finished"]


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_damaged_status_of_one_cell_stops_no_other(cells_do, when):
    cells_do(f"case $4 in */bad) echo {{ > $4/status.json;; *) {FINISHES};; esac")
    good, bad = cell(SWEEP / "good", "pending"), cell(SWEEP / "bad", "pending")
    if when == "before":
        bad.status_file.write_text("{")
    with pytest.raises(CellsFailedError, match=r"^1 of 2 did not finish: bad \(.*not valid JSON"):
        work("bad", "good")
    assert good.state == "finished"


def test_a_new_job_tries_failed_cells_anew_and_a_requeued_one_leaves_them(cells_do):
    cells_do(f"{COUNTS}; {FINISHES}")
    cell(SWEEP / "a", "failed")
    (FOLDER / "7_starts.json").write_text(json.dumps([{"time": "then", "host": "there"}]))
    with pytest.raises(CellsFailedError, match=r"a \(failed\)"):
        work("a")
    assert starts("a") == 0
    (FOLDER / "7_starts.json").unlink()
    work("a")
    assert (starts("a"), states(SWEEP)) == (1, ["finished"])


def test_a_job_comes_back_after_its_time_limit_but_no_more_often_than_it_may(cells_do, monkeypatch):
    cells_do("exit 1")
    done = cell(SWEEP / "a", "pending")
    asked = []
    monkeypatch.setattr(queue, "slurm", lambda *command: asked.append(command))
    monkeypatch.setattr(queue, "job_info", lambda job: {})
    # Of no minutes the time is over at once.
    limited = CellsTask(SWEEP, FOLDER, ["a"], 0, 60, max_num_timeout=1)
    with pytest.raises(SystemExit) as left:
        limited()
    assert (left.value.code, asked) == (143, [("scontrol", "requeue", "7")])
    assert done.state == "pending"
    with pytest.raises(CellsFailedError, match=r"a \(failed\)"):
        limited()
    assert len(asked) == 1
    error = done.status()["error"]
    assert error.startswith("timed out 2 times; state saved: relaunch with a larger")
    assert "hydra.launcher.timeout_min (it was 0)" in error
