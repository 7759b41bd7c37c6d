"""Metrics files in whatever state a crash, a disk or a person leaves them."""

import json
from itertools import pairwise

import pytest

from sdqn_lab.analysis.records import MAX_RECORDS, read_records

EVALUATION = {"step": 10, "frames": 10, "wall_seconds": 1.0, "eval/return_mean": 3.0}


def write(path, *lines):
    file = path / "metrics.jsonl"
    file.write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines) + "\n")
    return file


def test_evaluations_training_and_events_are_kept_apart(tmp_path):
    event = {"step": 12, "health/event": "hidden died"}
    records = read_records(write(tmp_path, {"step": 5, "loss/td": 1.0}, EVALUATION, event))
    assert [r["step"] for r in records.training] == [5]
    assert records.evaluations == [EVALUATION]
    assert records.events == ["step 12: hidden died"]
    assert records.last == event
    assert records.problems == []


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"step": 11, "loss/td": 0.', "line 2 is not valid JSON"),
        ('{"step": 11, "eval/return_mean": NaN}', "line 2 is not valid JSON"),
        ("\x00\x00\x00", "line 2 is not valid JSON"),
        ('{"step": 11, "loss/td": Infinity}', "line 2 is not valid JSON"),
        ('{"step": 1' + "0" * 400 + "}", "line 2 is no record: it has no number `step`"),
        ("[1, 2]", "line 2 is no record: it has no number `step`"),
        ('{"global_step": 11, "reward": 3}', "line 2 is no record: it has no number `step`"),
        ('{"step": "11"}', "line 2 is no record: it has no number `step`"),
        (
            '{"step": 11, "eval/return_mean": "high"}',
            "an evaluation whose eval/return_mean is no number",
        ),
        (
            '{"step": 11, "eval/return_mean": null}',
            "an evaluation whose eval/return_mean is no number",
        ),
        ('{"step": 3, "eval/return_mean": 9.0}', "line 2 goes back to step 3"),
        ('{"step": 12, "eval/return_mean": 9.0, "frames": 12}', "whose wall_seconds is no number"),
        ('{"step": 1000000000, "eval/return_mean": 9.0}', "beyond the run's end: step 1,000"),
    ],
)
def test_a_damaged_line_is_named_and_left_out_and_the_others_count(tmp_path, line, said):
    later = EVALUATION | {"step": 20, "eval/return_mean": 4.0}
    records = read_records(write(tmp_path, EVALUATION, line, later), max_steps=1_000)
    assert records.evaluations == [EVALUATION, later]
    (problem,) = records.problems
    assert said in problem


def test_many_damaged_lines_are_one_problem_with_their_number(tmp_path):
    records = read_records(write(tmp_path, *["garbage"] * 7, EVALUATION))
    assert records.problems == [
        "metrics.jsonl: line 1 is not valid JSON (and 6 more lines); left out"
    ]


def test_a_line_torn_at_the_very_end_is_what_a_crash_leaves_and_no_problem(tmp_path):
    file = write(tmp_path, EVALUATION)
    file.write_text(file.read_text() + '{"step": 20, "eval/retu')
    records = read_records(file)
    assert records.evaluations == [EVALUATION]
    assert records.problems == []


def test_a_missing_file_and_a_directory_in_its_place_are_problems_and_no_tracebacks(tmp_path):
    assert read_records(tmp_path / "metrics.jsonl").problems == ["metrics.jsonl is missing"]
    (tmp_path / "metrics.jsonl").mkdir()
    (problem,) = read_records(tmp_path / "metrics.jsonl").problems
    assert problem.startswith("metrics.jsonl cannot be read")


@pytest.mark.parametrize("number", [1, MAX_RECORDS, 2 * MAX_RECORDS + 1, 5_000])
def test_training_is_thinned_evenly_and_evaluations_never(tmp_path, number):
    lines = [{"step": step, "loss/td": 1.0} for step in range(1, number + 1)]
    evaluations = [EVALUATION | {"step": number}] * 1_000
    records = read_records(write(tmp_path, *lines, *evaluations))
    steps = [record["step"] for record in records.training]
    assert min(number, MAX_RECORDS // 2) <= len(steps) <= MAX_RECORDS
    assert steps[0] == 1
    assert len({b - a for a, b in pairwise(steps)}) <= 1
    assert len(records.evaluations) == 1_000


def test_a_series_holds_the_finite_numbers_of_a_key(tmp_path):
    lines = [{"step": 1, "q/mean": 2}, {"step": 2}, {"step": 3, "q/mean": "x"}]
    steps, values = read_records(write(tmp_path, *lines)).series("q/mean")
    assert steps.tolist() == [1.0]
    assert values.tolist() == [2.0]


def test_the_last_word_on_firing_is_the_last_record_that_has_one_however_thinned(tmp_path):
    rates = [{"step": step, "snn/firing_rate/hidden": step / 5_000} for step in range(1, 5_001)]
    records = read_records(write(tmp_path, *rates, {"step": 5_001, "loss/td": 1.0}))
    assert records.spiking["snn/firing_rate/hidden"] == 1.0


def test_events_and_evaluations_between_training_records_thin_nothing(tmp_path):
    lines = []
    for step in range(1, 501):
        lines += [{"step": step, "loss/td": 1.0}, EVALUATION | {"step": step}]
    records = read_records(write(tmp_path, {"step": 0, "health/event": "woke"}, *lines))
    steps = [record["step"] for record in records.training]
    assert steps[0] == 1
    assert steps[-1] >= 499
