"""The TensorBoard mirror, read back with TensorBoard's own reader."""

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sdqn_lab.tracking.tensorboard import TensorBoard
from tests.tracking.runs import Told, mirrored, records


@pytest.fixture
def told():
    return Told()


def mirror(run, lines, exit_code=0):
    tracker = TensorBoard(run)
    for line in lines:
        tracker.log(line)
    tracker.finish(exit_code)


def read(directory):
    accumulator = EventAccumulator(str(directory / "tensorboard"), size_guidance={"tensors": 0})
    return accumulator.Reload()


def points(accumulator, key):
    return [(event.step, event.value) for event in accumulator.Scalars(key)]


def expected(lines, key):
    return [(line["step"], pytest.approx(line[key])) for line in lines if key in line]


def test_every_number_is_a_point_over_agent_steps(tmp_path, told):
    lines = records(20)
    mirror(mirrored(tmp_path / "cell", told), lines)
    found = read(tmp_path / "cell")
    numbers = {k for line in lines for k, v in line.items() if isinstance(v, int | float)}
    assert set(found.Tags()["scalars"]) == numbers
    for key in numbers:
        assert points(found, key) == expected(lines, key)
    assert told == []


def test_sentences_are_text(tmp_path, told):
    mirror(mirrored(tmp_path / "cell", told), records(20))
    assert read(tmp_path / "cell").Tags()["tensors"] == ["health/event/text_summary"]


def test_a_continued_run_has_each_point_once(tmp_path, told):
    mirror(mirrored(tmp_path / "cell", told), records(12), exit_code=1)
    continued = mirrored(tmp_path / "cell", told, attempt=2, kept=records(7))
    mirror(continued, records(20, begin=7))
    found = read(tmp_path / "cell")
    for key in ("train/return", "eval/return_mean", "frames"):
        assert points(found, key) == expected(records(20), key)
