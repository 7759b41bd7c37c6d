"""What a sweep is said to be: the ledger against the cells' own status."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from sdqn_lab.commands.shell import output
from sdqn_lab.launching import queue
from sdqn_lab.launching.ledger import Ledger, is_held, locked
from sdqn_lab.launching.observe import WRONG, observe, unfinished
from sdqn_lab.launching.table import SUMMARY_SECONDS, notes, summary, table, watching
from sdqn_lab.runs.directory import RunDirectory
from tests.launching.sweeps import GONE, attempt, cell, made_up

SWEEP = Path("sweep")


def only():
    (report,) = observe(SWEEP).reports
    return report


def recorded(*records: dict, cell: str = "a") -> None:
    lines = [f"{json.dumps(record)}\n" for record in records]
    RunDirectory(SWEEP / cell).metrics.write_text("".join(lines))


def since(**changes):
    """A start after the submission."""
    return attempt(started="2026-01-01T00:00:01Z", **changes)


@pytest.mark.parametrize(
    ("written", "launcher_lives", "state"),
    [
        ("finished", True, "finished"),
        ("finished", False, "finished"),
        ("failed", True, "failed"),
        ("failed", False, "failed"),
        ("pending", True, "queued"),
        ("pending", False, "missing"),
        ("preempted", True, "requeued"),
        ("preempted", False, "stopped"),
        ("running", True, "running"),
        ("running", False, "running"),
        (None, True, "missing"),
        (None, False, "missing"),
    ],
)
def test_a_cells_state_is_what_it_wrote_and_whether_its_launcher_lives(
    written, launcher_lives, state
):
    made_up(SWEEP, {"a": written}, **({} if launcher_lives else GONE))
    assert only().state == state


@pytest.mark.parametrize("attempts", [[attempt(**GONE)], []])
def test_a_cell_whose_process_ended_silently_is_lost(attempts):
    made_up(SWEEP, {"a": "running"})
    RunDirectory(SWEEP / "a").update(attempts=attempts)
    assert (only().state, only().reason) == ("lost", "its process is gone")


def test_a_cell_that_was_prepared_and_never_submitted_is_missing():
    made_up(SWEEP, {"a": "pending"}, cells=[])
    assert only().state == "missing"


def test_a_cell_that_saved_and_left_while_others_go_on_is_stopped():
    made_up(SWEEP, {"a": "preempted"})
    RunDirectory(SWEEP / "a").update(attempts=[attempt(), since()])
    assert only().state == "stopped"


@pytest.mark.parametrize(("written", "state"), [("preempted", "stopped"), ("pending", "missing")])
def test_nothing_waits_for_a_launcher_that_is_done(written, state):
    made_up(SWEEP, {"a": written}, ended="2026-01-01T00:00:09Z")
    assert only().state == state


def test_a_cell_that_was_started_once_and_waits_for_nobody_is_stopped():
    made_up(SWEEP, {"a": "pending"}, **GONE)
    RunDirectory(SWEEP / "a").update(attempts=[attempt(**GONE)])
    assert only().state == "stopped"


def test_a_failure_is_described_by_its_last_line_and_the_place_of_its_log():
    made_up(SWEEP, {"a": "failed"})
    (SWEEP / "a" / "log.txt").touch()
    assert notes(observe(SWEEP)) == ["a: failed: ValueError: no; log: sweep/a/log.txt"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"state": "odd"}', "\0\0"])
def test_a_damaged_status_is_named_and_the_other_cells_are_shown(text):
    made_up(SWEEP, {"a": "finished", "b": "finished", "c": "failed"})
    (SWEEP / "b" / "status.json").write_text(text)
    seen = observe(SWEEP)
    assert [r.state for r in seen.reports] == ["finished", "failed", "failed"]
    assert "sweep/b/status.json" in seen.reports[1].reason
    assert seen.names(WRONG) == ["b", "c"]


def test_progress_is_read_from_the_end_of_the_metrics():
    made_up(SWEEP, {"a": "running"})
    recorded(
        {"step": 100, "wall_seconds": 10.0, "train/return": 1.0},
        {"step": 200, "wall_seconds": 40.0, "eval/return_mean": 5.0},
        {"step": 300, "wall_seconds": 50.0, "train/return": 2.0},
    )
    found = only()
    assert (found.steps, found.rate, found.last_return, found.evaluation) == (300, 5.0, 2.0, 5.0)
    assert found.seconds_left == (1000 - 300) / 5.0


def test_steps_before_the_first_update_are_no_measure_of_the_speed():
    made_up(SWEEP, {"a": "running"})
    recorded({"step": 5, "wall_seconds": 0.5}, {"step": 10, "wall_seconds": 1.0})
    assert only().seconds_left is None
    slow = {"step": 20, "wall_seconds": 5.0, "loss/td": 1.0}
    recorded({"step": 10, "wall_seconds": 1.0}, slow)
    assert only().seconds_left is None, "how long an update takes is not known yet"
    recorded({"step": 10, "wall_seconds": 1.0}, slow, {"step": 40, "wall_seconds": 15.0})
    assert only().seconds_left == (1000 - 40) / 2.0


def test_an_agent_without_updates_has_a_speed_as_soon_as_some_of_its_steps_are_done():
    made_up(SWEEP, {"a": "running"})
    recorded({"step": 5, "wall_seconds": 0.5}, {"step": 25, "wall_seconds": 2.5})
    assert only().seconds_left == (1000 - 25) / 10.0


def test_a_cell_that_stopped_before_its_first_record_stands_where_its_checkpoint_does():
    made_up(SWEEP, {"a": "preempted"})
    checkpoint = SWEEP / "a" / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "manifest.json").write_text('{"facts": {"steps": 263}}')
    assert only().steps == 263
    recorded({"step": 200, "wall_seconds": 1.0})
    assert only().steps == 263


@pytest.mark.parametrize("torn", ['{"step": 40', "garbage\n", '{"step"\n', "[1]\n", "\udcff\n"])
def test_a_torn_line_of_metrics_hides_no_other(torn):
    made_up(SWEEP, {"a": "running"})
    text = '{"step": 30}\n' + torn
    RunDirectory(SWEEP / "a").metrics.write_bytes(text.encode(errors="surrogateescape"))
    assert only().steps == 30


def test_of_long_metrics_only_whole_lines_of_the_end_are_read():
    made_up(SWEEP, {"a": "running"})
    lines = "".join(f'{{"step": {step}, "filler": "{"x" * 90}"}}\n' for step in range(2000))
    RunDirectory(SWEEP / "a").metrics.write_text(lines)
    assert only().steps == 1999


def test_a_cell_that_ran_other_code_than_was_submitted_is_a_warning():
    made_up(SWEEP, {"a": "finished", "b": "finished"}, code={"git_sha": "f" * 40, "code": "1" * 16})
    same, other = {"code": "1" * 16}, {"git_sha": "e" * 40, "git_dirty": True, "code": "2" * 16}
    RunDirectory(SWEEP / "a").update(attempts=[since(**same)])
    RunDirectory(SWEEP / "b").update(attempts=[since(**same), since(**other)])
    assert notes(observe(SWEEP)) == [
        "WARNING b: ran other code (eeeeeeee+changes 222222) than was submitted (ffffffff 111111)"
    ]


def test_code_that_ran_before_the_last_submission_is_no_matter():
    made_up(SWEEP, {"a": "finished"})
    early = attempt(code="another")
    RunDirectory(SWEEP / "a").update(attempts=[early])
    assert only().warnings == []


def test_the_summary_counts_and_estimates_from_what_runs_now():
    made_up(SWEEP, {"a": "finished", "b": "running", "c": "pending"})
    recorded({"step": 400, "wall_seconds": 0}, {"step": 500, "wall_seconds": 10}, cell="b")
    expected = "3 cells: 1 finished, 1 running, 1 queued; ETA 2m 30s"
    assert summary(observe(SWEEP)) == expected


def test_a_long_table_shows_what_went_wrong_first_and_says_what_it_hides():
    made_up(SWEEP, dict.fromkeys((f"good{i:03}" for i in range(80)), "finished") | {"z": "failed"})
    console = output()
    with console.capture() as shown:
        console.print(table(observe(SWEEP)))
    assert "│ z " in shown.get()
    assert "(21 cells not shown; --all shows them)" in shown.get()


def test_without_a_terminal_a_sweep_reports_each_change_and_is_not_silent_for_long(monkeypatch):
    made_up(SWEEP, {"a": "running", "b": "pending", "of another command": None})
    seen = observe(SWEEP)
    monkeypatch.setattr("time.monotonic", lambda: 0.0)
    console = Console(force_terminal=False, width=200)
    with console.capture() as shown, watching(console) as watch:
        for seconds in (0.0, SUMMARY_SECONDS - 1, SUMMARY_SECONDS + 1, SUMMARY_SECONDS + 2):
            monkeypatch.setattr("time.monotonic", lambda seconds=seconds: seconds)
            watch.show(seen)
        cell_ended = replace(seen.reports[0], state="finished", evaluation=5.0)
        watch.show(replace(seen, reports=[cell_ended, *seen.reports[1:]]))
    assert shown.get().splitlines() == [
        "a: running (3 cells: 1 running, 1 queued, 1 missing)",
        "3 cells: 1 running, 1 queued, 1 missing",
        "a: finished with 5.00 (3 cells: 1 finished, 1 queued, 1 missing)",
    ]


def test_cells_whose_names_differ_by_a_hash_alone_are_told_apart_by_what_was_swept():
    names = {"pong_lif_seed0_1f": "ppo", "pong_lif_seed0_2e": "a2c", "pong_relu_seed0_3d": "a2c"}
    made_up(SWEEP, dict.fromkeys(names, "finished"))
    ledger = Ledger.read(SWEEP)
    for name, algo in names.items():
        ledger.cells[name].overrides = ["env=pong", "time_window=4", f"algo={algo}", "seed=0"]
    ledger.write(SWEEP)
    assert [r.label for r in observe(SWEEP).reports] == [
        f"{n} (algo={a})" for n, a in names.items()
    ]
    # Seeds are in the names.
    ledger.cells.pop("pong_lif_seed0_2e")
    ledger.write(SWEEP)
    assert [r.label for r in observe(SWEEP).reports] == ["pong_lif_seed0_1f", "pong_relu_seed0_3d"]


def test_unfinished_are_all_but_the_finished():
    SWEEP.mkdir()
    for state in ("finished", "failed", "pending", "preempted", "running"):
        cell(SWEEP / state, state)
    names = ["finished", "failed", "pending", "preempted", "running", "nowhere"]
    assert unfinished(SWEEP, names) == names[1:]


# Sweeps that were started on another machine, whose processes cannot be seen from here.


@pytest.mark.parametrize(
    ("written", "held", "state"),
    [
        ("finished", "sweep", "finished"),
        ("running", "cell", "running"),
        ("running", "sweep", "lost"),
        ("running", None, "lost"),
        ("preempted", "sweep", "requeued"),
        ("preempted", None, "stopped"),
        ("pending", "sweep", "queued"),
        ("pending", None, "missing"),
    ],
)
def test_a_cell_started_on_another_machine_is_judged_by_what_is_locked(written, held, state):
    made_up(SWEEP, {"a": written}, host="elsewhere")
    if held is None:
        assert only().state == state
        return
    with RunDirectory(SWEEP if held == "sweep" else SWEEP / "a").lock():
        assert only().state == state


def test_a_cell_that_left_another_machine_while_others_go_on_there_is_stopped():
    made_up(SWEEP, {"a": "preempted"}, host="elsewhere")
    RunDirectory(SWEEP / "a").update(attempts=[since(host="elsewhere")])
    with RunDirectory(SWEEP).lock():
        assert only().state == "stopped"


def test_nothing_waits_for_a_launcher_elsewhere_that_is_done():
    made_up(SWEEP, {"a": "pending"}, host="elsewhere", ended="2026-01-01T00:00:09Z")
    with RunDirectory(SWEEP).lock():
        assert only().state == "missing"


def test_a_lock_of_ones_own_is_no_sign_of_another_machine():
    made_up(SWEEP, {"a": "pending"}, host="elsewhere")
    with locked(SWEEP):
        assert not is_held(SWEEP)
        assert only().state == "missing"
    with RunDirectory(SWEEP).lock():
        assert is_held(SWEEP)


# Sweeps on SLURM, by its answers.


def submitted(monkeypatch, written: str, *found: queue.Job, ending: str | None = None) -> None:
    """Cell `a` was submitted as job 7; what the queue and the accounting say of that."""
    made_up(SWEEP, {"a": written}, launcher="slurm", job_name="name", jobs={"7": ["a"]})
    monkeypatch.setattr(queue, "jobs", lambda names: dict.fromkeys("7", *found) if found else {})
    monkeypatch.setattr(queue, "final_states", lambda ids: {j: ending for j in ids if ending})


@pytest.mark.parametrize("reason", ["JobHeldUser", "ReqNodeNotAvail, UnavailableNodes:n[1-2]"])
def test_a_job_that_may_wait_for_ever_is_a_warning_with_the_reason(monkeypatch, reason):
    submitted(monkeypatch, "pending", queue.Job("name", "PENDING", reason))
    assert only().state == "queued"
    assert notes(observe(SWEEP)) == [f"WARNING 1 cells wait: SLURM: {reason}"]


@pytest.mark.parametrize("reason", ["Priority", "Resources", "None", ""])
def test_a_job_that_waits_for_its_turn_is_none(monkeypatch, reason):
    submitted(monkeypatch, "pending", queue.Job("name", "PENDING", reason))
    assert (only().state, notes(observe(SWEEP))) == ("queued", [])


@pytest.mark.parametrize(
    ("ending", "state", "reason"),
    [
        ("RUNNING", "running", ""),
        ("PENDING", "queued", ""),
        ("REQUEUED", "queued", ""),
        ("OUT_OF_MEMORY", "lost", "SLURM: OUT_OF_MEMORY"),
        ("CANCELLED by 0", "lost", "SLURM: CANCELLED by 0"),
        (None, "lost", "its job is no longer in the queue"),
    ],
)
def test_a_job_that_the_queue_forgot_is_what_the_accounting_says(
    monkeypatch, ending, state, reason
):
    submitted(monkeypatch, "running", ending=ending)
    assert (only().state, only().reason) == (state, reason)


def test_a_job_of_another_name_is_not_the_cells(monkeypatch):
    submitted(monkeypatch, "running", queue.Job("another", "RUNNING"))
    assert only().state == "lost"
