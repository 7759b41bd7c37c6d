"""The process that gives a tracker the record, and how little training knows of it."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sdqn_lab.runs.directory import TRACKER_LOCK, BusyError, RunDirectory
from sdqn_lab.tracking import follow
from sdqn_lab.tracking.deliver import deliver
from sdqn_lab.tracking.follow import Follower
from sdqn_lab.tracking.tracker import TrackedRun, Tracker
from tests.tracking.runs import attempt, begin, delivered_all, records, wait_until, write_records

MINE = '''
import json, time
from pathlib import Path
from sdqn_lab.tracking.tracker import Tracker


class Mine(Tracker):
    """Keeps a journal; breaks or hangs where its settings say so."""

    def __init__(self, *, broken=None, hangs=None):
        self.broken, self.hangs = broken, hangs

    def note(self, place, *what):
        with (self.run.directory / "journal").open("a") as journal:
            journal.write(json.dumps([place, *what]) + "\\n")
        while self.hangs == place and not Path("go").exists():
            time.sleep(0.01)
        if self.broken == place:
            raise OSError(f"no room\\nin {place}")

    def open(self, run):
        self.run = run
        self.note("open", run.attempt)
        return run.delivered

    def log(self, index, record):
        self.note("log", index, record)

    def close(self, exit_code):
        self.note("close", exit_code)
        self.note("closed")
'''
TARGET = "own_journal.Mine"


@pytest.fixture(autouse=True)
def mine(tmp_path):
    """A module of the user's own, in the folder where commands are written."""
    (tmp_path / "own_journal.py").write_text(MINE)


def journal(directory, place=None):
    file = directory.path / "journal"
    lines = map(json.loads, file.read_text().splitlines()) if file.exists() else []
    return [line[1:] if place else line for line in lines if place in (None, line[0])]


def lines(count, begin=0):
    return [[index, record] for index, record in enumerate(records(count))][begin:]


def begun(directory, shown, count=0, **settings):
    """An attempt of a run whose tracker is the user's own, and its follower."""
    begin(directory, TARGET, **settings)
    write_records(directory, count)
    return Follower(directory, TARGET, shown.append)


def free(directory):
    try:
        with directory.lock(TRACKER_LOCK):
            return True
    except BusyError:
        return False


def test_a_tracker_of_ones_own_gets_every_line_while_the_run_goes_on(directory, shown):
    follower = begun(directory, shown, 3)
    wait_until(lambda: len(journal(directory, "log")) == 3)
    write_records(directory, 7)
    wait_until(lambda: len(journal(directory, "log")) == 7)
    directory.end_attempt("finished")
    follower.finish()
    wait_until(lambda: delivered_all(directory))
    assert journal(directory) == [
        ["open", 1],
        *(["log", *line] for line in lines(7)),
        ["close", 0],
        ["closed"],
    ]
    assert shown == []


@pytest.mark.parametrize("place", ["open", "log", "close"])
def test_a_tracker_that_breaks_is_one_line_that_says_what_to_write(directory, shown, place):
    follower = begun(directory, shown, 4, broken=place)
    directory.end_attempt("finished")
    follower.finish()
    (line,) = shown
    assert line.startswith(
        f"WARNING pong_seed0: OSError: no room in {place}; metrics.jsonl is complete"
    )
    assert line.endswith(f"python -m sdqn_lab.sweep sync {directory.path} uploads it to W&B")


def test_what_breaks_is_said_while_the_run_goes_on_and_said_once(directory, shown):
    follower = begun(directory, shown, 4, broken="open")
    wait_until(lambda: follower.news() or shown)
    follower.news()
    directory.end_attempt("finished")
    follower.finish()
    assert len(shown) == 1


@pytest.mark.parametrize("place", ["open", "log", "close"])
def test_a_tracker_that_hangs_is_left_behind_with_a_line(directory, shown, place, monkeypatch):
    monkeypatch.setattr(follow, "PATIENCE_SECONDS", 0.1)
    follower = begun(directory, shown, 4, hangs=place)
    wait_until(lambda: journal(directory))
    directory.end_attempt("finished")
    follower.finish()
    (line,) = shown
    assert f"python -m sdqn_lab.sweep sync {directory.path}" in line
    Path("go").touch()
    wait_until(lambda: delivered_all(directory))


IMPATIENT = "from sdqn_lab.tracking import follow; follow.END_SECONDS = 1; follow.main()"


@pytest.mark.parametrize("place", ["open", "log", "close"])
def test_a_tracker_that_hangs_for_good_does_not_outlive_the_run_for_good(directory, place):
    begin(directory, TARGET, hangs=place)
    write_records(directory, 2)
    command = [sys.executable, "-c", IMPATIENT, str(directory.path), "--tracker", TARGET]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, check=False)
    assert done.returncode == -signal.SIGALRM


def test_a_killed_follower_is_one_line_and_the_next_one_goes_on_where_it_was(directory, shown):
    follower = begun(directory, shown, 4)
    wait_until(lambda: directory.delivered().get(TARGET, {}).get("lines") == 4)
    follower._process.kill()
    follower._process.wait()
    follower.news()
    write_records(directory, 6)
    directory.end_attempt("preempted")
    follower.finish()
    assert len(shown) == 1
    assert "ended with code -9" in shown[0]
    follower = begun(directory, shown, 8)
    directory.end_attempt("finished")
    follower.finish()
    wait_until(lambda: delivered_all(directory))
    assert journal(directory, "log") == lines(8)
    assert len(shown) == 1


DYING = """
import os, signal, sys
from sdqn_lab.tracking.follow import Follower
from sdqn_lab.runs.directory import RunDirectory
Follower(RunDirectory(sys.argv[1]), "own_journal.Mine", print)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_follower_of_a_killed_run_delivers_the_rest_and_ends(directory):
    begin(directory, TARGET)
    write_records(directory, 5)
    done = subprocess.run([sys.executable, "-c", DYING, str(directory.path)], check=False)
    assert done.returncode == -signal.SIGKILL
    wait_until(lambda: delivered_all(directory))
    assert journal(directory, "log") == lines(5)
    assert journal(directory, "close") == [[143]]
    wait_until(lambda: free(directory))


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2"])
def test_a_signal_that_is_meant_for_the_run_does_not_end_the_follower(directory, shown, name):
    follower = begun(directory, shown, 2)
    wait_until(lambda: journal(directory))
    follower._process.send_signal(getattr(signal, name))
    write_records(directory, 4)
    directory.end_attempt("preempted")
    follower.finish()
    wait_until(lambda: delivered_all(directory))
    assert journal(directory, "log") == lines(4)
    assert (journal(directory, "close"), shown) == ([[143]], [])


def test_followers_of_two_attempts_take_turns(directory, shown, monkeypatch):
    monkeypatch.setattr(follow, "PATIENCE_SECONDS", 0.1)
    first = begun(directory, shown, 5, hangs="close")
    wait_until(lambda: len(journal(directory, "log")) == 5)
    directory.end_attempt("preempted")
    first.finish()
    second = begun(directory, shown, 8)
    directory.end_attempt("finished")
    second.finish()
    Path("go").touch()
    wait_until(lambda: delivered_all(directory))
    places = [line[0] for line in journal(directory) if line[0] != "log"]
    assert places == ["open", "close", "closed"] * 2
    assert journal(directory, "log") == lines(8)


class Noting(Tracker):
    """Keeps the numbers of the lines, and the exit code."""

    def __init__(self, wanted=0):
        self.wanted, self.seen, self.code = wanted, [], None

    def open(self, run):
        return self.wanted

    def log(self, index, record):
        self.seen.append(index)

    def close(self, exit_code):
        self.code = exit_code


def test_a_follower_reads_nothing_of_an_attempt_after_its_own(directory, shown):
    begin(directory)
    write_records(directory, 6)
    tracker = Noting()

    def goes_on_elsewhere():
        if tracker.seen:
            begin(directory)
            write_records(directory, 4)  # the record is cut at the checkpoint, and grows again
            with directory.metrics.open("a") as file:
                file.write("of another attempt" * 500 + "\n")
        return False

    deliver(directory, TrackedRun.of(directory, shown.append), tracker, goes_on_elsewhere)
    assert (tracker.seen, tracker.code) == (list(range(6)), 143)


def test_a_line_that_a_crash_has_torn_is_not_delivered(directory, shown):
    begin(directory)
    write_records(directory, 3)
    with directory.metrics.open("a") as file:
        file.write('{"step": 1')
    tracker = Noting()
    assert deliver(directory, TrackedRun.of(directory, shown.append), tracker) == (3, 0)
    assert (tracker.seen, tracker.code) == ([0, 1, 2], 143)


def test_lines_that_the_tracker_has_are_not_sent_again(directory, shown):
    begin(directory)
    write_records(directory, 5)
    tracker = Noting(wanted=3)
    assert deliver(directory, TrackedRun.of(directory, shown.append), tracker) == (2, 3)
    assert tracker.seen == [3, 4]
    assert TrackedRun.of(directory, shown.append).delivered == 5


def test_what_one_tracker_was_given_another_was_not(directory, shown):
    begin(directory)
    write_records(directory, 5)
    deliver(directory, TrackedRun.of(directory, shown.append), Noting())
    begin(directory, TARGET)
    assert TrackedRun.of(directory, shown.append).delivered == 0


def test_a_stored_config_cannot_name_just_any_class(directory, shown, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    attempt(directory, shown, 2, target=TARGET)
    assert "own_journal" not in sys.modules
    (line,) = shown
    assert f"tracker._target_={TARGET}" in line
    assert f"--tracker {TARGET}" in line
    assert follow.follow(directory, shown.append, trusted=TARGET)


def tracked(directory):
    return TrackedRun.of(directory, print)


def test_a_continued_run_keeps_its_id(tmp_path):
    directory = RunDirectory(tmp_path / "pong_seed0")
    begin(directory)
    first = tracked(directory)
    begin(directory)
    second = tracked(directory)
    assert second.id == first.id
    assert first.id.startswith("pong_seed0-")
    assert (first.attempt, second.attempt) == (1, 2)


def test_copies_of_a_run_in_two_directories_have_two_ids(tmp_path):
    begin(RunDirectory(tmp_path / "a" / "cell"))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    ids = {tracked(RunDirectory(tmp_path / folder / "cell")).id for folder in "ab"}
    assert len(ids) == 2


def test_a_run_begun_anew_in_a_cleared_directory_has_another_id(directory):
    begin(directory)
    first = tracked(directory)
    shutil.rmtree(directory.path)
    begin(directory)
    status = directory.status()
    status["attempts"][0]["process_start"] += 60.0  # another process
    directory.update(attempts=status["attempts"])
    assert tracked(directory).id != first.id


def test_an_id_takes_only_letters_that_w_and_b_takes(tmp_path):
    directory = RunDirectory(tmp_path / "a cell: #1?")
    begin(directory)
    run = tracked(directory)
    assert run.id.startswith("a-cell---1--")
    assert run.name == "a cell: #1?"


@pytest.mark.parametrize("file", ["ledger.json", "multirun.yaml"])
def test_the_group_is_the_sweeps_directory_and_a_single_run_has_none(tmp_path, file):
    alone, cell = (RunDirectory(tmp_path / folder / "cell") for folder in ("outputs", "norms"))
    begin(alone)
    begin(cell)
    (tmp_path / "norms" / file).touch()
    assert (tracked(alone).group, tracked(cell).group) == (None, "norms")
