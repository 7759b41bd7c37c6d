"""What is submitted, and what becomes of it when SLURM or a person gets in between.

A few lines of shell stand in for each of SLURM's programs; a real SLURM is in `tests/slurm`.
"""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sdqn_lab.checks.refused import Refused
from sdqn_lab.launching import slurm
from sdqn_lab.launching.ledger import Ledger, Submission
from sdqn_lab.launching.observe import Observation, Report
from sdqn_lab.launching.queue import SlurmError
from sdqn_lab.launching.slurm import SlurmLauncher, stop_signals_later
from sdqn_lab.runs.stopping import STOP_SIGNALS, StopFlag
from tests.launching.sweeps import made_up

SWEEP = Path("sweep")
TAKES = """
echo x >> count
env > environment
cp "$1" "script$(wc -l < count)"
echo "Submitted batch job $(wc -l < count)"
"""
FAILS = "echo 'sbatch: error: Socket timed out' >&2; exit 1"


@pytest.fixture(autouse=True)
def program(tmp_path_factory, monkeypatch) -> Callable[[str, str], None]:
    """Write one of SLURM's programs; there is a controller that takes everything."""
    folder = tmp_path_factory.mktemp("programs")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def write(name: str, body: str) -> None:
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)

    for name, body in {
        "sbatch": TAKES,
        "srun": "exit 0",
        "scontrol": "echo MaxArraySize = 1001",
        "squeue": "exit 0",
        "scancel": 'echo "$*" >> cancelled',
    }.items():
        write(name, body)
    return write


def submit(*names: str, sweep_dir: Path = SWEEP, **settings: Any) -> Submission:
    made_up(sweep_dir, dict.fromkeys(names, "pending"), cells=[])
    return slurm.submit(sweep_dir, list(names), SlurmLauncher(**settings).settings)


def options(script: str = "script1") -> list[str]:
    """What a script asks SLURM for."""
    lines = Path(script).read_text().splitlines()
    return [line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH ")]


@pytest.mark.parametrize(
    "name",
    ["job-name", "job_name", "array", "signal", "output", "error", "dependency", "time"],
)
def test_options_of_sbatch_that_are_the_launchers_own_are_refused(name):
    dashed = name.replace("_", "-")
    with pytest.raises(Refused) as refused:
        SlurmLauncher(additional_parameters={"nice": 1, name: "x"})
    assert refused.value.key == "additional_parameters"
    assert dashed in refused.value.rule
    assert refused.value.instead == "{nice: 1}"


@pytest.mark.parametrize("delay", [0, 30, 60])
def test_cells_have_less_than_half_the_time_limit_for_saving(delay):
    with pytest.raises(Refused) as refused:
        SlurmLauncher(timeout_min=1, signal_delay_s=delay)
    assert (refused.value.key, refused.value.value) == ("signal_delay_s", delay)
    SlurmLauncher(timeout_min=1, signal_delay_s=int(refused.value.instead))


def test_more_jobs_than_an_array_may_have_are_refused_with_what_to_write(program):
    program("scontrol", "echo MaxArraySize = 3")
    with pytest.raises(Refused) as refused:
        submit(*"abcdefg", cells_per_task=2)
    assert (refused.value.key, refused.value.value) == ("hydra.launcher.cells_per_task", 2)
    assert refused.value.instead.startswith("hydra.launcher.cells_per_task=3,")
    assert not Path("count").exists()
    assert len(Ledger.read(SWEEP).submissions) == 1
    submit(*"abcdefg", sweep_dir=Path("other"), cells_per_task=3)
    assert "--array=0-2%3" in options()


def test_additional_parameters_reach_sbatch_and_one_that_is_false_is_left_out():
    submit("a")
    assert "--requeue" in options()
    submit(
        "a",
        sweep_dir=Path("other"),
        additional_parameters={"nice": 100, "hold": True, "requeue": False},
    )
    assert {"--nice=100", "--hold"} <= set(options("script2"))
    assert not [option for option in options("script2") if "requeue" in option]


def test_a_users_preferences_change_nothing_that_is_submitted(monkeypatch):
    monkeypatch.setenv("SBATCH_PARTITION", "preferred")
    monkeypatch.setenv("SLURM_CONF", "/kept")
    before = dict(os.environ)
    submit("a")
    environment = Path("environment").read_text().splitlines()
    assert "SLURM_CONF=/kept" in environment
    assert not [line for line in environment if line.startswith("SBATCH_")]
    assert dict(os.environ) == before


@pytest.mark.parametrize("name", ["norm=a,b", "with space", "a|b", "n\u00e4me"])
def test_jobs_have_a_name_that_the_queue_can_be_asked_for(name):
    job_name = submit("a", sweep_dir=Path(name)).job_name
    assert job_name is not None
    assert not set(job_name) & set(",| \u00e4")
    assert f"--job-name={job_name}" in options()


LOST = {
    "an error": (FAILS, "sbatch: sbatch: error: Socket timed out"),
    "no word": ("exit 0", "sbatch: Could not make sense of sbatch outp"),
}


@pytest.mark.parametrize("answer", LOST)
def test_jobs_whose_taking_was_answered_wrongly_are_cancelled(program, answer):
    sbatch, problem = LOST[answer]
    program("sbatch", sbatch)
    program("squeue", 'for i in 2 3_0; do echo "$i|PENDING|None|name"; done; echo $* > asked')
    with pytest.raises(SlurmError) as caught:
        submit("a", "b")
    assert str(caught.value).startswith(problem)
    assert "\n" not in str(caught.value)
    (made,) = Ledger.read(SWEEP).submissions[1:]
    assert (made.jobs, made.cells) == ({}, [])
    assert Path("cancelled").read_text() == "2 3_0\n"
    assert f"--name={made.job_name}" in Path("asked").read_text()


@pytest.mark.parametrize("squeue", ["exit 0", "echo 'squeue: error: down' >&2; exit 1"])
def test_a_refusal_is_answered_in_sbatchs_words_whatever_the_queue_says(program, squeue):
    program("sbatch", FAILS)
    program("squeue", squeue)
    with pytest.raises(SlurmError, match=r"^sbatch: sbatch: error: Socket timed out$"):
        submit("a")
    assert not Path("cancelled").exists()
    assert Ledger.read(SWEEP).submissions[-1].jobs == {}


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_stop_signal_can_wait_and_is_not_lost(number):
    stop = StopFlag()
    with stop.listening():
        with stop_signals_later():
            signal.raise_signal(number)
            assert not stop.requested
        assert stop.signal == number


def test_a_stop_during_a_submission_comes_when_its_jobs_are_in_the_ledger(monkeypatch):
    noted: list[dict[str, list[str]]] = []

    def submitted(*_: object) -> list[str]:
        signal.raise_signal(signal.SIGTERM)
        return ["7_0", "7_1"]

    monkeypatch.setattr(slurm, "submit_array", submitted)
    before = signal.signal(
        signal.SIGTERM, lambda *_: noted.append(Ledger.read(SWEEP).submissions[-1].jobs)
    )
    try:
        submit("a", "b")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert noted == [{"7_0": ["a"], "7_1": ["b"]}]


def seen_as(state: str) -> Observation:
    return Observation(SWEEP, [Report("a", state, "pong", 0, 100)])


@pytest.mark.parametrize("doubtful", ["lost", "stopped"])
def test_what_a_waiting_command_sees_for_a_moment_only_does_not_end_it(monkeypatch, doubtful):
    seen = iter([doubtful, "requeued", doubtful, "running", "finished"])
    states = []

    def observe(sweep_dir: Path) -> Observation:
        states.append(next(seen))
        return seen_as(states[-1])

    monkeypatch.setattr(slurm, "observe", observe)
    assert slurm.watch(SWEEP, poll_seconds=0.01).reports[0].state == "finished"
    assert len(states) == 5


def test_a_cell_that_stays_stopped_ends_the_waiting(monkeypatch):
    monkeypatch.setattr(slurm, "LOST_GRACE_SECONDS", 0.1)
    monkeypatch.setattr(slurm, "observe", lambda _: seen_as("stopped"))
    assert slurm.watch(SWEEP, poll_seconds=0.01).reports[0].state == "stopped"
