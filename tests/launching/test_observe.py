"""What a sweep is said to be: the ledger against the cells' own words."""

import json
from pathlib import Path

import pytest

from sdqn_lab.launching.observe import WRONG, observe, unfinished
from sdqn_lab.launching.table import notes, out, summary, table
from sdqn_lab.tracking.run_directory import RunDirectory
from tests.launching.sweeps import GONE, attempt, cell, made_up

SWEEP = Path("sweep")


def only():
    (report,) = observe(SWEEP).reports
    return report


def since(**changes):
    """A start after the submission."""
    return attempt(started="2026-01-01T00:00:01Z", **changes)


@pytest.mark.parametrize(
    ("told", "launcher_lives", "state"),
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
def test_a_cells_state_is_what_it_said_and_whether_its_launcher_lives(told, launcher_lives, state):
    made_up(SWEEP, {"a": told}, **({} if launcher_lives else GONE))
    assert only().state == state


@pytest.mark.parametrize("attempts", [[attempt(**GONE)], []])
def test_a_cell_whose_process_is_gone_without_a_word_is_lost(attempts):
    made_up(SWEEP, {"a": "running"})
    RunDirectory(SWEEP / "a").update(attempts=attempts)
    assert (only().state, only().reason) == ("lost", "its process is gone")


def test_a_cell_that_was_enrolled_and_never_submitted_is_missing():
    made_up(SWEEP, {"a": "pending"}, cells=[])
    assert only().state == "missing"


def test_a_cell_that_saved_and_left_while_others_go_on_is_stopped():
    made_up(SWEEP, {"a": "preempted"})
    RunDirectory(SWEEP / "a").update(attempts=[attempt(), since()])
    assert only().state == "stopped"


@pytest.mark.parametrize(("told", "state"), [("preempted", "stopped"), ("pending", "missing")])
def test_nothing_waits_for_a_launcher_that_is_done(told, state):
    made_up(SWEEP, {"a": told}, ended="2026-01-01T00:00:09Z")
    assert only().state == state


def test_a_cell_that_was_started_once_and_waits_for_nobody_is_stopped():
    made_up(SWEEP, {"a": "pending"}, **GONE)
    RunDirectory(SWEEP / "a").update(attempts=[attempt(**GONE)])
    assert only().state == "stopped"


def test_a_failure_is_told_by_its_last_line_and_the_place_of_its_log():
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
    records = [
        {"step": 100, "time/steps_per_second": 10.0, "train/return": 1.0},
        {"step": 200, "eval/return_mean": 5.0},
        {"step": 300, "time/steps_per_second": 20.0, "train/return": 2.0},
    ]
    RunDirectory(SWEEP / "a").metrics.write_text("".join(f"{json.dumps(r)}\n" for r in records))
    found = only()
    assert (found.steps, found.rate, found.last_return, found.evaluation) == (300, 20.0, 2.0, 5.0)
    assert found.seconds_left == (1000 - 300) / 20.0


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
    record = {"step": 500, "time/steps_per_second": 10.0}
    RunDirectory(SWEEP / "b").metrics.write_text(f"{json.dumps(record)}\n")
    expected = "3 cells: 1 finished, 1 running, 1 queued; ETA 2m 30s"
    assert summary(observe(SWEEP)) == expected


def test_a_long_table_shows_what_went_wrong_first_and_says_what_it_hides():
    made_up(SWEEP, dict.fromkeys((f"good{i:03}" for i in range(80)), "finished") | {"z": "failed"})
    console = out()
    with console.capture() as shown:
        console.print(table(observe(SWEEP)))
    assert "│ z " in shown.get()
    assert "(21 cells not shown; --all shows them)" in shown.get()


def test_unfinished_are_all_but_the_finished():
    SWEEP.mkdir()
    for state in ("finished", "failed", "pending", "preempted", "running"):
        cell(SWEEP / state, state)
    names = ["finished", "failed", "pending", "preempted", "running", "nowhere"]
    assert unfinished(SWEEP, names) == names[1:]
