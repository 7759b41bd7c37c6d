"""Cells as processes: how each can end, and what its directory then says.

A few lines of shell stand in for a cell; `$4` is its directory.
"""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from sdqn_lab.launching.processes import Slot, run_cells
from sdqn_lab.runs.directory import RunDirectory
from sdqn_lab.runs.stopping import BUSY_EXIT, StopFlag
from tests.launching.sweeps import FINISHES, cell, let_cells_do, wait_until


@pytest.fixture
def program(tmp_path, monkeypatch) -> Callable[[str], None]:
    return lambda body: let_cells_do(body, tmp_path, monkeypatch)


def work(*names: str, slots: int = 1) -> list[RunDirectory]:
    directories = [cell(Path(name), "pending") for name in names]
    run_cells([d.path for d in directories], [Slot({})] * slots, StopFlag())
    return directories


def stopped(*names: str) -> list[RunDirectory]:
    """Cells of which the first is asked to stop once it has made its file `up`."""
    directories, stop = [cell(Path(name), "pending") for name in names], StopFlag()

    def look(changed: bool) -> None:
        if changed and not stop.requested:
            wait_until((directories[0].path / "up").exists, "the cell at work")
            stop.signal = signal.SIGTERM

    run_cells([d.path for d in directories], [Slot({})], stop, look)
    return directories


ENDS = {
    "killed": ("kill -KILL $$", "failed", "ended by SIGKILL from outside, perhaps for want of mem"),
    "crashed": ("kill -SEGV $$", "failed", "its process was ended by SIGSEGV from outside"),
    "left": ("echo some; echo last words; exit 7", "failed", "ended with code 7: last words"),
    "silent": ("exit 3", "failed", "its process ended with code 3: without output"),
    "zero": ("exit 0", "failed", "its process ended with code 0: without output"),
    "stopped": ("kill -TERM $$", "preempted", None),
    "busy": (f"exit {BUSY_EXIT}", "pending", None),
}


@pytest.mark.parametrize("end", ENDS)
def test_how_a_process_ended_is_written_for_it(program, end):
    body, state, cause = ENDS[end]
    program(body)
    (directory,) = work("a")
    assert directory.state == state
    assert cause is None or cause in directory.status()["error"]


ATTEMPT = '"attempts": [{"started": "then", "ended": "now"}]'
REPORTED = {
    "finished": f'{{"state": "finished", {ATTEMPT}}}',
    "failed": f'{{"state": "failed", "error": "its own", {ATTEMPT}}}',
    "preempted": f'{{"state": "preempted", {ATTEMPT}}}',
}


@pytest.mark.parametrize("state", REPORTED)
def test_what_a_cell_wrote_itself_stands(program, state):
    program(f"""echo '{REPORTED[state]}' > "$4/status.json"; exit 143""")
    (directory,) = work("a")
    assert directory.status() == json.loads(REPORTED[state])


def test_a_cell_whose_lock_another_process_holds_is_left_alone(program):
    program("exit 1")
    directory = cell(Path("a"), "pending")
    with directory.lock():
        run_cells([directory.path], [Slot({})], StopFlag())
    assert directory.state == "pending"


def test_a_crash_does_not_affect_the_other_cells(program):
    program(f"case $4 in b) kill -KILL $$;; *) {FINISHES};; esac")
    assert [d.state for d in work("a", "b", "c", slots=2)] == ["finished", "failed", "finished"]


def test_no_more_cells_are_at_work_than_there_are_slots_and_all_slots_are_used(program):
    program(f"touch $4/here; ls */here | wc -l >> counts; sleep 0.3; rm $4/here; {FINISHES}")
    work(*"abcdef", slots=2)
    counts = {int(line) for line in Path("counts").read_text().split()}
    assert max(counts) == 2


def test_a_slot_gives_its_environment_and_its_cpus(program):
    program(f"echo $GPU > $4/gpu; grep Cpus_allowed_list /proc/self/status > $4/cpus; {FINISHES}")
    cpu = min(os.sched_getaffinity(0))
    directory = cell(Path("a"), "pending")
    run_cells([directory.path], [Slot({"GPU": "7"}, frozenset({cpu}))], StopFlag())
    assert Path("a/gpu").read_text() == "7\n"
    assert Path("a/cpus").read_text().split()[-1] == str(cpu)


def test_the_signal_that_slurm_sends_to_all_processes_of_a_job_does_not_reach_a_cell(program):
    program(f"kill -USR2 $$; {FINISHES}")
    assert work("a")[0].state == "finished"


def test_ctrl_c_on_a_terminal_reaches_the_launcher_alone(program):
    program(f"ps -o pgid= -p $$ > $4/group; {FINISHES}")
    work("a")
    assert int(Path("a/group").read_text()) != os.getpgrp()


def test_the_output_of_every_start_is_kept(program):
    program("echo once more; exit 1")
    (directory,) = work("a")
    run_cells([directory.path], [Slot({})], StopFlag())
    assert Path("a/log.txt").read_text() == "once more\n" * 2


def test_a_stop_is_passed_on_and_nothing_more_is_started(program):
    program("touch $4/up; sleep 60 & wait")
    first, second = stopped("a", "b")
    assert (first.state, second.state) == ("preempted", "pending")
    assert not Path("b/up").exists()


def test_a_cell_that_leaves_by_an_error_while_it_stops_counts_as_stopped(program):
    program("trap 'exit 1' TERM; touch $4/up; sleep 60 & wait")
    assert stopped("a")[0].state == "preempted"


@pytest.mark.parametrize("damage", ["echo { > $4/status.json", "rm -r $4"])
def test_one_whose_directory_is_damaged_while_it_works_keeps_nobody_from_finishing(program, damage):
    program(f"case $4 in a) {damage};; *) {FINISHES};; esac")
    _, second = work("a", "b")
    assert second.state == "finished"
