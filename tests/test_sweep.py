"""`python -m sdqn_lab.sweep`: looking at sweeps, starting again what is missing."""

import json
import subprocess
from functools import partial
from pathlib import Path

import psutil
import pytest

from sdqn_lab import sweep
from sdqn_lab.launching import queue, slurm
from sdqn_lab.launching.ledger import Ledger, locked
from sdqn_lab.runs.directory import RunDirectory
from tests.commands import complains
from tests.launching.sweeps import (
    FINISHES,
    GONE,
    let_cells_do,
    made_up,
    stamps,
    submission,
    wait_until,
)

SWEEP = Path("sweep")


@pytest.fixture
def command(carry_out):
    """Run the command in this process."""
    return partial(carry_out, sweep.main)


@pytest.fixture
def cells_do(tmp_path, monkeypatch):
    """Let a few lines of shell stand in for cells; `$4` is a cell's directory."""
    return lambda body: let_cells_do(body, tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("states", "code"),
    [
        ({"a": "finished", "b": "finished"}, 0),
        ({"a": "running", "b": "pending"}, 0),
        ({"a": "finished", "b": "failed"}, 1),
        ({"a": "finished", "b": None}, 0),
    ],
)
def test_status_exits_with_one_where_a_cell_went_wrong(command, states, code):
    made_up(SWEEP, states)
    assert command("status", "sweep")[0] == code


def test_status_shows_a_row_a_cell_and_writes_nothing(command):
    made_up(SWEEP, {"first": "finished", "second": "failed"})
    before = stamps(SWEEP)
    _, shown, _ = command("status", "sweep")
    assert "│ first " in shown
    assert "second: failed: ValueError: no" in shown
    assert "2 cells: 1 finished, 1 failed" in shown
    assert stamps(SWEEP) == before


def test_status_for_programs_is_one_json_object(command):
    made_up(SWEEP, {"a": "finished", "b": "failed"})
    code, shown, _ = command("status", "sweep", "--json")
    found = json.loads(shown)
    assert code == 1
    assert found["problem"] is None
    assert [(c["name"], c["state"], c["reason"]) for c in found["cells"]] == [
        ("a", "finished", ""),
        ("b", "failed", "ValueError: no"),
    ]


def test_status_shows_all_rows_where_it_is_asked_to(command):
    made_up(SWEEP, dict.fromkeys((f"cell{i:02}" for i in range(70)), "finished"))
    assert "(10 cells not shown; --all shows them)" in command("status", "sweep")[1]
    shown = command("status", "sweep", "--all")[1]
    assert "not shown" not in shown
    assert shown.count("│ cell") == 70


def test_a_watch_ends_when_nothing_more_will_happen(command, monkeypatch):
    monkeypatch.setattr(slurm, "LOST_GRACE_SECONDS", -1.0)
    made_up(SWEEP, {"a": "finished", "b": "preempted"}, **GONE)
    assert command("status", "sweep", "--watch")[0] == 0


@pytest.mark.parametrize("arguments", [["status"], ["status", "--json"], ["relaunch"], ["cancel"]])
def test_what_is_no_sweep_is_answered_in_one_line(command, arguments):
    complains(command(*arguments, "nowhere"), "error: nowhere: | write the directory of a")
    SWEEP.mkdir()
    complains(command(*arguments, "sweep"), "error: sweep: | ledger.json | ; write ")
    (SWEEP / "ledger.json").write_text("{")
    complains(command(*arguments, "sweep"), "error: sweep/ledger.json: ")


def test_a_relaunch_of_a_finished_sweep_touches_nothing(command):
    made_up(SWEEP, {"a": "finished", "b": "finished"})
    (SWEEP / ".lock").touch()
    before = stamps(SWEEP)
    code, shown, _ = command("relaunch", "sweep")
    assert (code, shown) == (0, "2 cells: 2 finished\n")
    assert stamps(SWEEP) == before


def test_a_relaunch_starts_what_failed_stopped_or_was_lost_and_nothing_else(command, cells_do):
    cells_do(f"echo $4 >> started; {FINISHES}")
    made_up(SWEEP, dict(done="finished", bad="failed", left="preempted", new="pending"), **GONE)
    done = stamps(SWEEP / "done")
    assert command("relaunch", "sweep")[0] == 0
    assert sorted(Path("started").read_text().split()) == ["sweep/bad", "sweep/left", "sweep/new"]
    assert stamps(SWEEP / "done") == done


def test_a_lost_cell_is_started_again_and_one_at_work_is_not(command, cells_do):
    cells_do(f"echo $4 >> started; {FINISHES}")
    ledger = made_up(SWEEP, {"lost": "running", "works": "running"})
    (found,) = RunDirectory(SWEEP / "lost").status()["attempts"]
    RunDirectory(SWEEP / "lost").update(attempts=[{**found, **GONE}])
    works = stamps(SWEEP / "works")
    assert command("relaunch", "sweep")[0] == 0
    assert Path("started").read_text() == "sweep/lost\n"
    assert stamps(SWEEP / "works") == works
    assert [s.cells for s in Ledger.read(SWEEP).submissions[1:]] == [["lost"]]
    assert ledger.cells == Ledger.read(SWEEP).cells


def test_a_relaunch_in_which_a_cell_fails_again_exits_with_one(command, cells_do):
    cells_do("exit 5")
    made_up(SWEEP, {"a": "failed", "b": "finished"})
    code, shown, complaint = command("relaunch", "sweep")
    assert (code, shown) == (1, "2 cells: 1 finished, 1 failed\n")
    assert "a: failed: its process ended with code 5" in complaint
    assert "ValueError" not in complaint, "the failure of the start before"


def test_a_relaunch_keeps_the_settings_of_the_last_start_unless_overridden(command, cells_do):
    cells_do("exit 5")
    made_up(SWEEP, {"a": "failed"}, settings={"processes": 3, "gpus": 0})
    command("relaunch", "sweep")
    command("relaunch", "sweep", "hydra.launcher.processes=2")
    found = [s.settings for s in Ledger.read(SWEEP).submissions[1:]]
    assert found == [{"processes": 3, "gpus": 0}, {"processes": 2, "gpus": 0}]


def test_overrides_of_a_relaunch_may_stand_before_and_behind_its_flag(command, cells_do):
    cells_do("exit 5")
    made_up(SWEEP, {"a": "failed"}, settings={"processes": 3, "gpus": 0})
    command(
        "relaunch", "sweep", "hydra.launcher.gpus=null", "--trust", "hydra.launcher.processes=2"
    )
    assert Ledger.read(SWEEP).submissions[-1].settings == {"processes": 2, "gpus": None}


@pytest.mark.parametrize(
    "arguments",
    [
        ["status", "sweep", "seed=1"],
        ["status", "sweep", "--trust"],
        ["relaunch", "sweep", "--all"],
        ["cancel", "sweep", "a=1"],
        [],
        ["start", "sweep"],
    ],
)
def test_an_argument_that_a_command_does_not_take_is_refused(command, arguments):
    made_up(SWEEP, {"a": "failed"})
    complains(command(*arguments), "write --help for what there is")


def test_a_dry_relaunch_lists_what_would_start_and_starts_nothing(command, cells_do):
    cells_do("touch started")
    made_up(SWEEP, dict(done="finished", bad="failed", left="preempted", gone=None), **GONE)
    (SWEEP / ".lock").touch()
    before = stamps(SWEEP)
    code, shown, complaint = command("relaunch", "sweep", "hydra.launcher.dry_run=true")
    assert (code, shown, complaint) == (0, "would start 3 cells\nbad\nleft\ngone\n", "")
    assert stamps(SWEEP) == before
    assert not (SWEEP / "gone").exists()
    assert not Path("started").exists()


def test_a_relaunch_starts_what_another_machine_left_behind(command, cells_do):
    cells_do(f"echo $4 >> started; {FINISHES}")
    made_up(SWEEP, {"new": "pending", "left": "preempted"}, host="elsewhere")
    assert command("relaunch", "sweep")[0] == 0
    assert set(Path("started").read_text().split()) == {"sweep/new", "sweep/left"}


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("seed=3", "error: seed: | write hydra.launcher.KEY=VALUE, or a new"),
        ("hydra.sweep.dir=x", "error: hydra.sweep.dir: | write hydra.launcher.KEY=VALUE"),
        ("hydra/launcher=slurmm", "error: hydra/launcher=slurmm: | slurm?"),
        ("hydra/launcher=basic", "error: hydra/launcher=basic: | write hydra/launcher=lo"),
        ("hydra.launcher.proceses=2", "error: hydra.launcher.proceses=2: | processes?"),
        ("hydra.launcher.processes=0", "error: hydra.launcher.processes=0: | >= 1"),
        ("hydra.launcher.processes=x", "error: hydra.launcher.processes=x: "),
        ("nonsense", "error: nonsense: | write key=value"),
        ("seed=1,2", "error: seed=1,2: | write one"),
        ("hydra.launcher.processes=1,2", "error: hydra.launcher.processes=1,2: | write one"),
    ],
)
def test_a_wrong_override_of_a_relaunch_is_refused_and_nothing_is_started(
    command, cells_do, override, problem
):
    cells_do("touch started")
    made_up(SWEEP, {"a": "failed"})
    before = stamps(SWEEP)
    complains(command("relaunch", "sweep", override), problem)
    assert stamps(SWEEP) == before
    assert not Path("started").exists()


def test_a_relaunch_beside_a_command_that_works_on_the_sweep_is_refused(command):
    made_up(SWEEP, {"a": "failed"})
    with locked(SWEEP):
        complains(command("relaunch", "sweep"), "sweep: another command works on this sweep")


def test_a_damaged_status_keeps_a_relaunch_from_starting_and_is_named(command, cells_do):
    cells_do("touch started")
    made_up(SWEEP, {"a": "failed", "b": "failed"})
    (SWEEP / "b" / "status.json").write_text("{")
    complains(command("relaunch", "sweep"), "sweep/b/status.json: not valid JSON")
    assert not Path("started").exists()


def test_a_cell_whose_directory_is_gone_is_not_made_anew_as_another_one(command):
    made_up(SWEEP, {"pong_old_name": None})
    complains(command("relaunch", "sweep"), "pong_old_name: composed anew it would be another cell")
    assert not (SWEEP / "pong_old_name").exists()


def test_a_cancel_where_nothing_runs_says_so(command):
    made_up(SWEEP, {"a": "preempted"}, **GONE)
    code, _, said = command("cancel", "sweep")
    assert (code, said) == (0, "sweep: nothing of it is running or waiting here\n")


def test_a_cancel_asks_the_launcher_to_stop_and_no_process_that_has_its_number_by_now(command):
    launcher, other = (subprocess.Popen(["sleep", "600"]) for _ in range(2))
    try:
        born = psutil.Process(launcher.pid).create_time()
        ledger = made_up(SWEEP, {"a": "running"}, pid=launcher.pid, process_start=born)
        former = ledger.submissions[0].model_copy(update={"pid": other.pid, "process_start": 1.0})
        ledger.submissions.append(former)
        ledger.write(SWEEP)
        code, _, said = command("cancel", "sweep")
        assert code == 0
        assert "asked 0 jobs and 1 local launchers to stop" in said
        wait_until(lambda: launcher.poll() is not None, "the launcher's end")
        assert launcher.returncode == -15
        assert other.poll() is None
    finally:
        launcher.kill()
        other.kill()


def test_a_cancel_of_a_sweep_of_another_machine_is_refused_with_its_name(command):
    made_up(SWEEP, {"a": "running"}, host="node17")
    complains(command("cancel", "sweep"), "sweep: started on node17; write the command there")


@pytest.fixture
def in_queue(monkeypatch):
    """SLURM's queue holds job 7 of cell `a`; the commands that it gets."""
    job, given = queue.Job("name", "PENDING", "JobHeldUser"), []
    monkeypatch.setattr(queue, "jobs", lambda names: {"7": job} if "name" in names else {})
    monkeypatch.setattr(queue, "slurm", lambda *arguments: given.append(arguments) or "")
    ledger = made_up(SWEEP, {"a": "pending"}, launcher="slurm", job_name="name", jobs={"7": ["a"]})
    return ledger, given


def test_status_tells_why_jobs_may_wait_for_ever(command, in_queue):
    code, shown, _ = command("status", "sweep")
    assert code == 0
    assert "WARNING 1 cells wait: SLURM: JobHeldUser" in shown


def test_a_launcher_that_died_on_another_machine_long_ago_keeps_no_job_from_being_cancelled(
    command, in_queue
):
    ledger, given = in_queue
    ledger.submissions.insert(0, submission(["a"], host="node17"))
    ledger.write(SWEEP)
    code, _, said = command("cancel", "sweep")
    assert code == 0
    assert "asked 1 jobs and 0 local launchers to stop" in said
    assert given == [("scancel", "7")]
    assert Ledger.read(SWEEP).submissions[-1].cancelled


@pytest.mark.parametrize(
    "error", [PermissionError(13, "Permission denied"), OSError(122, "Disk quota exceeded")]
)
def test_a_sweep_that_cannot_be_written_is_answered_in_one_line(
    command, cells_do, monkeypatch, error
):
    def denied(self: Path, mode: str = "r", *args, **kwargs):
        if self == SWEEP / ".lock":
            raise type(error)(error.errno, error.strerror, str(self))
        return opened(self, mode, *args, **kwargs)

    cells_do("touch started")
    made_up(SWEEP, {"a": "failed"})
    opened = Path.open
    monkeypatch.setattr(Path, "open", denied)
    complains(command("relaunch", "sweep"), f"{error.strerror}: 'sweep/.lock'")
    assert not Path("started").exists()


@pytest.mark.parametrize("arguments", [["status"], ["relaunch"], ["cancel"]])
def test_ctrl_c_ends_a_command_as_a_shell_expects(command, monkeypatch, arguments):
    def interrupted(_: Path) -> None:
        raise KeyboardInterrupt

    made_up(SWEEP, {"a": "failed"})
    monkeypatch.setattr(Ledger, "read", interrupted)
    code, shown, complaint = command(*arguments, "sweep")
    assert (code, shown) == (130, "")
    assert "Traceback" not in complaint
