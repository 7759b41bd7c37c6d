"""Sweeps on this machine with real cells: deaths, stops, and nothing lost or counted twice."""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from omegaconf import OmegaConf

from sdqn_lab import run, sweep
from sdqn_lab.config import expand
from sdqn_lab.config.planning import plan_cells
from sdqn_lab.launching import queue
from sdqn_lab.launching.ledger import Ledger
from sdqn_lab.launching.local import LocalLauncher
from sdqn_lab.runs.directory import RunDirectory
from sdqn_lab.runs.stopping import BUSY_EXIT
from tests.launching.sweeps import (
    FINISHES,
    LONG,
    TINY,
    attempt,
    cells,
    cells_here,
    let_cells_do,
    made_up,
    numbers,
    stamps,
    start,
    states,
    wait_until,
)

# The sweep that nobody disturbed is made once.
pytestmark = pytest.mark.xdist_group("local")
SWEEP = Path("here")
TWO = ["-m", *LONG, "seed=0,1", "hydra.launcher.processes=2", f"hydra.sweep.dir={SWEEP}"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The sweep of two cells that nobody disturbed; not to be changed."""
    home, before = tmp_path_factory.mktemp("undisturbed"), Path.cwd()
    os.chdir(home)
    try:
        with cells_here():
            assert run.main(TWO) == 0
    finally:
        os.chdir(before)
    return home / SWEEP


@pytest.fixture(scope="module")
def undisturbed(whole) -> dict[str, list[dict]]:
    """What its cells record."""
    return numbers(whole)


@pytest.fixture
def started() -> Iterator:
    """Start commands; none of them outlives the test."""
    processes = []

    def begin(*arguments: str):
        processes.append(start("run", *arguments))
        return processes[-1]

    yield begin
    for process in processes:
        process.kill()
        process.communicate()


def wait_for_work(count: int = 1) -> None:
    def at_work() -> bool:
        return sum(p.stat().st_size > 0 for p in SWEEP.glob("*/metrics.jsonl")) >= count

    wait_until(at_work, "cells at work")


def working() -> list[psutil.Process]:
    """Processes of this test's cells."""
    here, found = Path.cwd(), []
    for process in psutil.process_iter():
        try:
            if "--resume" in process.cmdline() and Path(process.cwd()) == here:
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.mark.slow  # two minutes; a launcher that is killed is tried below
def test_a_stopped_sweep_has_saved_and_the_same_command_finishes_it_with_the_same_numbers(
    undisturbed, started, capsys
):
    first = started(*TWO)
    wait_for_work(2)
    assert run.main(TWO) == 1, "beside the first"
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = said.err.splitlines()
    assert line.startswith("error: here: another command works on this sweep; wait for it, or")
    first.send_signal(signal.SIGTERM)
    assert first.wait(120) == 143
    shown = first.stdout.read()
    assert "requeued" not in shown, "nobody starts them again"
    assert "preempted" in shown or "stopped" in shown
    assert set(states(SWEEP)) <= {"preempted", "finished"}
    assert "preempted" in states(SWEEP)
    assert not working()
    assert run.main(TWO) == 0
    assert numbers(SWEEP) == undisturbed
    assert {name for s in Ledger.read(SWEEP).submissions for name in s.cells} == set(undisturbed)


def test_cells_save_and_leave_when_their_launcher_is_killed_and_a_relaunch_finishes(
    undisturbed, started, capsys
):
    launcher = started(*TWO)
    wait_for_work(2)
    assert len(working()) == 2
    launcher.kill()
    wait_until(lambda: not working(), "the cells' leaving")
    assert set(states(SWEEP)) <= {"preempted", "finished"}
    finished = {
        path: stamps(path) for path in cells(SWEEP) if RunDirectory(path).state == "finished"
    }
    assert sweep.main(["relaunch", str(SWEEP)]) == 0
    assert "2 cells: 2 finished" in capsys.readouterr().out
    assert numbers(SWEEP) == undisturbed
    assert {path: stamps(path) for path in finished} == finished


@pytest.mark.parametrize("name", ["TERM", "INT", "USR2"])
def test_any_stop_signal_to_a_launcher_lets_its_cells_save_and_leave(tmp_path, monkeypatch, name):
    let_cells_do(f"kill -{name} $PPID; sleep 60 & wait", tmp_path, monkeypatch)
    made_up(SWEEP, {"a": "pending", "b": "pending"}, cells=[])
    with pytest.raises(SystemExit) as left:
        LocalLauncher(processes=1).start(SWEEP, ["a", "b"])
    assert left.value.code == 143
    assert states(SWEEP) == ["preempted", "pending"]
    assert Ledger.read(SWEEP).submissions[-1].ended


BROKEN = """
import os
import signal

import gymnasium
from gymnasium.envs.classic_control import CartPoleEnv


class Broken(CartPoleEnv):
    def __init__(self, end):
        super().__init__()
        self.end, self.steps = end, 0

    def step(self, action):
        self.steps += 1
        if self.steps == 60:
            self.end()
        return super().step(action)


def snap():
    raise RuntimeError("the pole snapped")


gymnasium.register("Raises-v0", lambda: Broken(snap))
gymnasium.register("Killed-v0", lambda: Broken(lambda: os.kill(os.getpid(), signal.SIGKILL)))
gymnasium.register("Leaves-v0", lambda: Broken(lambda: os._exit(9)))
"""


def test_cells_that_die_in_any_way_are_named_with_cause_and_log_and_the_others_finish(
    monkeypatch, capsys
):
    Path("broken.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(".")
    ids = "env.id=broken:Raises-v0,broken:Killed-v0,broken:Leaves-v0,CartPole-v1"
    grid = ["env=gymnasium", *TINY[1:], ids, "hydra.launcher.processes=2"]
    assert run.main(["-m", *grid, f"hydra.sweep.dir={SWEEP}"]) == 1
    said = capsys.readouterr()
    causes = {
        "Raises": "RuntimeError: the pole snapped",
        "Killed": "its process was ended by SIGKILL from outside, perhaps for want of memory",
        "Leaves": "its process ended with code 9",
    }
    for path in cells(SWEEP):
        cause = next((why for who, why in causes.items() if who in path.name), None)
        assert RunDirectory(path).state == ("failed" if cause else "finished")
        if cause is None:
            continue
        assert cause in RunDirectory(path).status()["error"]
        lines = said.err.splitlines()
        said_of_it = [line for line in lines if line.startswith(f"{path.name}: failed: ")]
        assert all(cause in line for line in said_of_it)
        assert said_of_it[-1].endswith(f"; log: {path}/log.txt")
    assert "Traceback" not in said.err
    assert sweep.main(["status", str(SWEEP)]) == 1


def test_a_cell_that_a_single_command_works_on_is_left_alone_and_the_others_finish(
    tmp_path, monkeypatch, capsys
):
    command = ["-m", *TINY, "seed=0,1", f"hydra.sweep.dir={SWEEP}"]
    first, _ = plan_cells(SWEEP, expand([*TINY, "seed=0,1"]))
    taken = RunDirectory(first.path)
    taken.path.mkdir(parents=True)
    taken.config.write_text(OmegaConf.to_yaml(first.cfg))
    taken.update(state="running", attempts=[attempt()])
    before = taken.status()
    # As a cell does that finds its lock held, and leaves.
    busy = f"[ $4 = {first.path} ] && [ ! -e free ] && exit {BUSY_EXIT}"
    let_cells_do(f"{busy}; {FINISHES}", tmp_path, monkeypatch)
    with taken.lock():
        assert run.main(command) == 1
        assert taken.status() == before
    assert sorted(map(str, states(SWEEP))) == ["finished", "running"]
    taken.update(state="preempted", attempts=[])
    Path("free").touch()
    assert run.main(command) == 0


@pytest.mark.slow  # a minute; what a relaunch starts is held without processes in test_sweep.py
def test_a_relaunch_makes_what_was_deleted_anew_and_starts_what_has_its_config_alone(
    whole, undisturbed, capsys
):
    shutil.copytree(whole, SWEEP)
    gone, bare = cells(SWEEP)
    shutil.rmtree(gone)
    for file in bare.rglob("*"):
        if file.is_file() and file.name != "config.yaml":
            file.unlink()
    with cells_here():
        assert sweep.main(["relaunch", str(SWEEP)]) == 0
    assert numbers(SWEEP) == undisturbed


def test_a_relaunch_makes_a_cell_anew_by_the_name_that_the_sweep_gave_it(
    tmp_path, monkeypatch, capsys
):
    let_cells_do(FINISHES, tmp_path, monkeypatch)
    ledger = made_up(SWEEP, {"s7": None})
    ledger.cells["s7"].overrides = [*TINY, "seed=7", "hydra.sweep.subdir=s${seed}"]
    ledger.write(SWEEP)
    assert sweep.main(["relaunch", str(SWEEP), "--trust"]) == 0
    assert states(SWEEP) == ["finished"]
    assert (SWEEP / "s7" / "config.yaml").exists()


IN_QUEUE = {"launcher": "slurm", "job_name": "name", "jobs": {"7_0": ["a"], "7_1": ["b"]}}


def test_cells_that_wait_in_slurms_queue_are_left_to_it(tmp_path, monkeypatch, capsys):
    let_cells_do(f"echo $4 >> started; {FINISHES}", tmp_path, monkeypatch)
    jobs = {"7_0": queue.Job("name", "PENDING"), "7_1": queue.Job("name", "CANCELLED")}
    monkeypatch.setattr(queue, "jobs", lambda names: jobs)
    made_up(SWEEP, {"a": "pending", "b": "pending"}, **IN_QUEUE)
    waits = stamps(SWEEP / "a")
    LocalLauncher(processes=1).start(SWEEP, ["a", "b"])
    assert Path("started").read_text() == "here/b\n"
    assert stamps(SWEEP / "a") == waits
    assert "a: in SLURM's queue, not touched" in capsys.readouterr().err
    assert Ledger.read(SWEEP).submissions[-1].cells == ["b"]


def test_where_slurm_does_not_answer_no_cell_of_its_queue_is_started(tmp_path, monkeypatch):
    def silent(names: object) -> None:
        raise queue.SlurmError("squeue: down")

    let_cells_do("touch started", tmp_path, monkeypatch)
    monkeypatch.setattr(queue, "jobs", silent)
    made_up(SWEEP, {"a": "pending"}, **IN_QUEUE)
    with pytest.raises(queue.SlurmError, match="down; nobody knows which cells are in the queue"):
        LocalLauncher(processes=1).start(SWEEP, ["a"])
    assert not Path("started").exists()
