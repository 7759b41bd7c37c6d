"""The TensorBoard tracker, read back with TensorBoard's own reader."""

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.tracking.runs import attempt, records

BOARD = "sdqn_lab.tracking.tensorboard.TensorBoard"


def read(directory):
    accumulator = EventAccumulator(
        str(directory.path / "tensorboard"), size_guidance={"tensors": 0}
    )
    return accumulator.Reload()


def points(accumulator, key):
    return [(event.step, event.value) for event in accumulator.Scalars(key)]


def expected(lines, key):
    return [(line["step"], pytest.approx(line[key])) for line in lines if key in line]


def test_every_number_is_a_point_over_agent_steps(directory, shown):
    lines = records(20)
    attempt(directory, shown, 20, target=BOARD)
    found = read(directory)
    numbers = {k for line in lines for k, v in line.items() if isinstance(v, int | float)}
    assert set(found.Tags()["scalars"]) == numbers
    for key in numbers:
        assert points(found, key) == expected(lines, key)
    assert shown == []


def test_sentences_are_text(directory, shown):
    attempt(directory, shown, 20, target=BOARD)
    assert read(directory).Tags()["tensors"] == ["health/event/text_summary"]


def test_a_continued_run_has_each_point_once(directory, shown):
    attempt(directory, shown, 12, "failed", target=BOARD)
    attempt(directory, shown, 20, target=BOARD)
    found = read(directory)
    for key in ("train/return", "eval/return_mean", "frames"):
        assert points(found, key) == expected(records(20), key)
