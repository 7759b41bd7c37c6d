"""What was started is on disk, whole, and says so when it is not."""

import json
import sys
from pathlib import Path

import psutil
import pytest

from sdqn_lab.launching.ledger import Ledger, LedgerError, locked
from sdqn_lab.runs import provenance
from sdqn_lab.runs.directory import BusyError
from tests.launching.sweeps import GONE, made_up, submission, wait_until

SWEEP = Path("sweep")


def test_what_is_written_is_what_is_read():
    ledger = made_up(SWEEP, {"a": "finished", "b": None})
    assert Ledger.read(SWEEP) == ledger


def without(key: str):
    def damage(file: Path) -> None:
        content = json.loads(file.read_text())
        del content["submissions"][0][key]
        file.write_text(json.dumps(content))

    return damage


DAMAGES = {
    "torn": (lambda f: f.write_bytes(f.read_bytes()[:-20]), "Invalid JSON"),
    "empty": (lambda f: f.write_text(""), "Invalid JSON"),
    "list": (lambda f: f.write_text("[]"), "the file: "),
    "bits": (lambda f: f.write_bytes(bytes(100)), "Invalid JSON"),
    "field": (without("code"), "submissions.0.code: Field required"),
    "newer": (lambda f: f.write_text('{"version": 2}'), "version: Input should be 1"),
    "more": (lambda f: f.write_text('{"version": 1, "x": 1}'), "x: Extra inputs"),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_a_damaged_ledger_is_one_line_that_names_the_file_and_the_place(what):
    damage, problem = DAMAGES[what]
    made_up(SWEEP, {"a": "finished"})
    damage(SWEEP / "ledger.json")
    with pytest.raises(LedgerError) as caught:
        Ledger.read(SWEEP)
    assert str(caught.value).startswith("sweep/ledger.json: ")
    assert problem in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_directory_without_a_ledger_is_no_sweep():
    SWEEP.mkdir()
    with pytest.raises(LedgerError, match=r"sweep: holds no ledger\.json; write the directory of"):
        Ledger.read(SWEEP)
    with pytest.raises(LedgerError, match="nowhere: no such directory"):
        Ledger.read(Path("nowhere"))
    assert Ledger.open(SWEEP) == Ledger()


def test_a_damaged_ledger_is_not_taken_for_none():
    made_up(SWEEP, {})
    (SWEEP / "ledger.json").write_text("{")
    with pytest.raises(LedgerError):
        Ledger.open(SWEEP)


def test_one_command_at_a_time_starts_cells():
    SWEEP.mkdir()
    busy = pytest.raises(BusyError, match="sweep: another command works on this sweep")
    with locked(SWEEP), busy, locked(SWEEP):
        pass
    with locked(SWEEP):
        pass


def test_a_sweep_is_not_locked_through_a_link():
    made_up(SWEEP, {})
    Path("elsewhere").touch()
    (SWEEP / ".lock").symlink_to(Path("elsewhere").absolute())
    with pytest.raises(LedgerError, match=r"sweep/\.lock: a link"), locked(SWEEP):
        pass


def test_a_submission_says_who_with_which_code_and_keeps_changes_beside(monkeypatch):
    monkeypatch.setattr(provenance, "diff", lambda: "+ a line")
    monkeypatch.setattr(provenance, "code", lambda: {"code": "abc"})
    # `sdqn-lab` takes the name of the command out of the arguments.
    monkeypatch.setattr(sys, "argv", ["/bin/sdqn-lab", "-m", "seed=0,1"])
    monkeypatch.setattr(sys, "orig_argv", ["/bin/python", "/bin/sdqn-lab", "run", "-m", "seed=0,1"])
    SWEEP.mkdir()
    ledger = Ledger()
    ledger.submit("local", {"processes": 2}, ["a"], SWEEP)
    made = ledger.submit("local", {}, ["a", "b"], SWEEP)
    assert made.alive
    assert made.code == {"code": "abc"}
    assert made.command == ["python", "/bin/sdqn-lab", "run", "-m", "seed=0,1"]
    assert (
        (SWEEP / "code-0.diff").read_text() == (SWEEP / "code-1.diff").read_text() == "+ a line\n"
    )


def test_without_changes_no_diff_is_kept(monkeypatch):
    monkeypatch.setattr(provenance, "diff", lambda: "")
    SWEEP.mkdir()
    Ledger().submit("local", {}, ["a"], SWEEP)
    assert not list(SWEEP.iterdir())


def test_a_cells_submission_is_its_last_one():
    first, second = submission(["a", "b"]), submission(["b"])
    ledger = Ledger(submissions=[first, second])
    assert ledger.submission_of("a") is first
    assert ledger.submission_of("b") is second
    assert ledger.submission_of("c") is None


def test_a_process_number_that_was_given_away_again_is_not_the_process():
    assert submission([]).alive
    assert not submission([], **GONE).alive
    assert not submission([], pid=2**22 + 1).alive
    assert not submission([], host="elsewhere").alive


def test_a_process_that_ended_does_not_live_on_because_nobody_asked_how():
    ended = psutil.Popen(["true"])
    born = ended.create_time()
    wait_until(lambda: ended.status() == psutil.STATUS_ZOMBIE, "its end")
    assert not submission([], pid=ended.pid, process_start=born).alive
    ended.wait()
