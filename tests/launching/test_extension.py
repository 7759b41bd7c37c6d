"""A whole sweep made longer by one command."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from sdqn_lab import run, sweep
from sdqn_lab.launching.ledger import Ledger
from sdqn_lab.runs.directory import RunDirectory
from tests.launching.sweeps import TINY, cells, cells_here

# Sweeps of real cells are made once, and in this process.
# They take a minute; `test_resume.py` makes a run longer too.
pytestmark = [pytest.mark.xdist_group("extension"), pytest.mark.slow]
SWEEP = Path("sweep")
COMMAND = ["-m", *TINY, "seed=0,1", "keep_state=true", f"hydra.sweep.dir={SWEEP}"]


@pytest.fixture(scope="module", autouse=True)
def here() -> Iterator[None]:
    with cells_here():
        yield


@pytest.fixture(scope="module")
def made_once(here, tmp_path_factory) -> dict[int, Path]:
    """By their steps, a sweep and the same made longer; not to be changed."""
    home, before = tmp_path_factory.mktemp("made"), Path.cwd()
    os.chdir(home)
    try:
        assert run.main(COMMAND) == 0
        shutil.copytree(SWEEP, "short")
        assert sweep.main(["relaunch", str(SWEEP), "budget.steps=400"]) == 0
    finally:
        os.chdir(before)
    return {200: home / "short", 400: home / SWEEP}


@pytest.fixture
def short(made_once) -> list[Path]:
    """Cells of a copy of the sweep in the working directory; they kept their state."""
    shutil.copytree(made_once[200], SWEEP)
    return cells(SWEEP)


@pytest.fixture
def longer(made_once) -> list[Path]:
    """The same, made longer."""
    shutil.copytree(made_once[400], SWEEP)
    return cells(SWEEP)


def steps(cell: Path) -> tuple[int, str]:
    cfg = OmegaConf.load(cell / "config.yaml")
    return cfg.budget.steps, RunDirectory(cell).state


def test_finished_cells_that_kept_their_state_go_on_and_the_sweeps_own_command_leaves_them_so(
    made_once, longer
):
    found = {cell: (cell / "metrics.jsonl").read_bytes() for cell in longer}
    for cell, records in found.items():
        assert steps(cell) == (400, "finished")
        assert RunDirectory(cell).saved_steps >= 400
        assert records.startswith((made_once[200] / cell.name / "metrics.jsonl").read_bytes())
    assert run.main(COMMAND) == 0
    for cell, records in found.items():
        assert steps(cell) == (400, "finished")
        assert (cell / "metrics.jsonl").read_bytes() == records


def test_a_sweep_that_cannot_be_made_longer_is_left_as_it_was(short, capsys):
    for cell in short:
        shutil.rmtree(cell / "checkpoint")  # as without keep_state
    before = {cell: (cell / "config.yaml").read_bytes() for cell in short}
    for asked in ("budget.steps=400", "budget.steps=100", "budget.steps=x", "budget.steps=400,500"):
        capsys.readouterr()
        assert sweep.main(["relaunch", str(SWEEP), asked]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert lines
        assert all(line.startswith(f"error: {asked}: ") for line in lines)
        for cell, stored in before.items():
            assert (cell / "config.yaml").read_bytes() == stored
            assert steps(cell) == (200, "finished")
    # As long as it is already: there is nothing to do.
    assert sweep.main(["relaunch", str(SWEEP), "budget.steps=200"]) == 0


def test_cells_whose_algorithm_does_not_fit_a_longer_run_are_left_as_they_were(capsys):
    """PQN's learning rate has fallen to 0 at the end of the run that it was made for."""
    pqn = ["env=cartpole", "algo=pqn", "budget=smoke", "tracker=none", "device=cpu", "threads=1"]
    pqn += ["time_window=1", "keep_state=true", "budget.steps=100", f"hydra.sweep.dir={SWEEP}"]
    assert run.main(["-m", *pqn, "algo.learning_rate_decay_steps=100,null"]) == 0
    before = {cell: (cell / "config.yaml").read_bytes() for cell in cells(SWEEP)}
    capsys.readouterr()
    assert sweep.main(["relaunch", str(SWEEP), "budget.steps=200"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: budget.steps=200: cartpole_")
    assert "algo.learning_rate_decay_steps=100: the learning rate is 0 from there on" in line
    for cell, stored in before.items():
        assert (cell / "config.yaml").read_bytes() == stored
        assert steps(cell) == (100, "finished")


def test_the_sweeps_own_command_does_not_cut_short_a_longer_cell_that_was_stopped(longer):
    RunDirectory(longer[0]).update(state="preempted")
    assert run.main(COMMAND) == 0
    for cell in longer:
        assert steps(cell) == (400, "finished")
    assert {entry.steps for entry in Ledger.read(SWEEP).cells.values()} == {400}
