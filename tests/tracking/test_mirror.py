"""The thread around every tracker, and what a tracker is told of its run."""

import shutil
import threading
import time

import pytest

from sdqn_lab.tracking.mirror import BackgroundMirror, mirrored_run
from sdqn_lab.tracking.run_directory import RunDirectory
from tests.tracking.runs import Told, mirrored, records


class Writer(BackgroundMirror):
    """Keeps lines in memory; breaks or hangs where it is told to."""

    def __init__(self, run, *, broken=None, hangs=None, patience_seconds=10.0):
        self.lines, self.codes, self.abandoned = [], [], threading.Event()
        self._broken, self._hangs = broken, hangs
        super().__init__(run, label="Writer", patience_seconds=patience_seconds)

    def _pass(self, place):
        if self._hangs == place:
            self.abandoned.wait(30)
        if self._broken == place:
            raise OSError(f"no room\nin {place}")

    def _open(self):
        self._pass("open")

    def _write(self, index, record):
        self._pass("write")
        self.lines.append((index, record))

    def _close(self, exit_code):
        self._pass("close")
        self.codes.append(exit_code)

    def _abandon(self):
        self.abandoned.set()


@pytest.fixture
def told():
    return Told()


def test_records_arrive_in_order_with_their_line_number(tmp_path, told):
    writer = Writer(mirrored(tmp_path / "cell", told, kept=records(3)))
    for line in records(7, begin=3):
        writer.log(line)
    writer.finish(1)
    assert writer.lines == list(enumerate(records(7)))
    assert (writer.codes, told) == ([1], [])


@pytest.mark.parametrize("place", ["open", "write", "close"])
def test_a_tracker_that_breaks_is_one_line_and_raises_nothing(tmp_path, told, place):
    writer = Writer(mirrored(tmp_path / "cell", told), broken=place)
    for line in records(50):
        writer.log(line)
    writer.finish(0)
    writer.log(records(1)[0])
    assert told == [
        f"WARNING Writer: OSError: no room in {place}; cell goes on, metrics.jsonl is complete"
    ]


@pytest.mark.parametrize("place", ["open", "write", "close"])
def test_a_tracker_that_hangs_holds_up_nothing_for_longer_than_its_patience(tmp_path, told, place):
    writer = Writer(mirrored(tmp_path / "cell", told), hangs=place, patience_seconds=0.3)
    begin = time.monotonic()
    for line in records(50):
        writer.log(line)
    assert time.monotonic() - begin < 0.2
    writer.finish(0)
    assert time.monotonic() - begin < 2.0
    assert writer.abandoned.is_set()
    assert len(told) == 1


def test_a_record_is_the_trackers_own_copy(tmp_path, told):
    writer = Writer(mirrored(tmp_path / "cell", told))
    line = {"step": 1}
    writer.log(line)
    line["step"] = 2
    writer.finish(0)
    assert writer.lines == [(0, {"step": 1})]


def begun(path) -> RunDirectory:
    path.mkdir(parents=True)
    directory = RunDirectory(path)
    directory.update(state="pending")
    directory.begin_attempt()
    return directory


def told_of(directory):
    return mirrored_run(directory, {}, print)


def test_a_continued_run_keeps_its_id(tmp_path):
    directory = begun(tmp_path / "pong_seed0")
    first = told_of(directory)
    directory.begin_attempt()
    second = told_of(directory)
    assert second.id == first.id
    assert first.id.startswith("pong_seed0-")
    assert (first.attempt, second.attempt) == (1, 2)


def test_copies_of_a_run_in_two_directories_have_two_ids(tmp_path):
    begun(tmp_path / "a" / "cell")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    ids = {told_of(RunDirectory(tmp_path / folder / "cell")).id for folder in "ab"}
    assert len(ids) == 2


def test_a_run_begun_anew_in_a_cleared_directory_has_another_id(tmp_path):
    first = told_of(begun(tmp_path / "cell"))
    shutil.rmtree(tmp_path / "cell")
    time.sleep(0.01)
    directory = begun(tmp_path / "cell")
    status = directory.status()
    status["attempts"][0]["process_start"] += 60.0  # another process
    directory.update(attempts=status["attempts"])
    assert told_of(directory).id != first.id


def test_an_id_takes_only_letters_that_w_and_b_takes(tmp_path):
    run = told_of(begun(tmp_path / "a cell: #1?"))
    assert run.id.startswith("a-cell---1--")
    assert run.name == "a cell: #1?"


@pytest.mark.parametrize("file", ["ledger.json", "multirun.yaml"])
def test_the_group_is_the_sweeps_directory_and_a_single_run_has_none(tmp_path, file):
    assert told_of(begun(tmp_path / "outputs" / "cell")).group is None
    directory = begun(tmp_path / "norms" / "cell")
    (tmp_path / "norms" / file).touch()
    assert told_of(directory).group == "norms"
