"""Sweeps on a real SLURM: whatever befalls jobs, nodes and controller, no cell and no step is lost.

A fixture is a storm: one sweep, a fault for each of its cells, and afterwards a relaunch. The tests
behind it each look at one promise.
"""

import json
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from sdqn_lab.launching.ledger import Ledger
from tests.launching.sweeps import records
from tests.slurm.cluster import Cluster
from tests.slurm.sweeps import HOLD, Sweep, undisturbed_sweep

Records = list[dict[str, Any]]
SEEDS = 7


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[Records]:
    """The metrics of all cells, by seed, from one process that nobody disturbed."""
    return undisturbed_sweep(tmp_path_factory.mktemp("undisturbed"), SEEDS)


def same(sweep: Sweep, undisturbed: list[Records]) -> bool:
    """Whether the metrics of all cells are those of an undisturbed sweep, line by line."""
    return [records(sweep.cell(seed)) for seed in sweep.seeds] == undisturbed[: len(sweep.seeds)]


def test_an_array_of_real_cells_ends_with_0_and_is_completed_in_the_accounting(
    lab: Cluster, tmp_path: Path, undisturbed: list[Records]
) -> None:
    sweep = Sweep(lab, tmp_path, 2)
    done = sweep.run()
    assert done.returncode == 0, done.stderr
    assert len({sweep.job(seed).partition("_")[0] for seed in sweep.seeds}) == 1
    assert [report["state"] for report in sweep.reports()] == ["finished"] * 2
    sweep.until(lambda: {sweep.sacct(seed) for seed in sweep.seeds} == {"COMPLETED"}, "sacct")
    assert same(sweep, undisturbed)

    before = sweep.untouched()
    assert sweep.run().returncode == 0
    assert sweep.relaunch() == 0
    assert sweep.untouched() == before
    assert len(Ledger.read(sweep.dir).submissions) == 1


def test_a_command_that_does_not_wait_can_be_repeated_interrupted_cancelled_and_relaunched(
    lab: Cluster, tmp_path: Path, undisturbed: list[Records]
) -> None:
    sweep = Sweep(lab, tmp_path, 1)
    sweep.slow(0.2)
    said = sweep.submit()
    assert sweep.states() != ["finished"]
    assert str(sweep.dir) in said
    assert f"as 1 jobs: {sweep.job(0).partition('_')[0]}" in said

    assert "1 of 1 cells are finished or in the queue already" in sweep.submit()
    assert len(Ledger.read(sweep.dir).submissions) == 1

    sweep.under_way([0])
    with sweep.running() as command:
        log = sweep.folder / "command.log"
        sweep.until(lambda: ": running" in log.read_text(), "the command to watch")
        command.send_signal(signal.SIGINT)
        code, said = sweep.end(command)
    assert code == 143
    assert "no longer watching; the jobs go on" in said
    assert sweep.reports()[0]["state"] == "running"

    assert sweep.tend("cancel").returncode == 0
    sweep.until(lambda: sweep.states() == ["preempted"], "the cell to save and leave")
    assert sweep.repeated(0) == 0
    sweep.until(lambda: sweep.reports()[0]["state"] == "stopped", "the end of the job")
    sweep.fast()
    assert sweep.relaunch() == 0
    assert sweep.starts(0) == 2
    assert same(sweep, undisturbed)


@pytest.mark.slow  # a minute; what is warned of is held by launching/test_observe
def test_cells_that_ran_other_code_than_was_submitted_are_warned_of(
    lab: Cluster, tmp_path: Path
) -> None:
    sweep = Sweep(lab, tmp_path, 1)
    sweep.submit(HOLD)
    ledger = Ledger.read(sweep.dir)
    ledger.submissions[-1].code["code"] = "0123456789abcdef"
    ledger.write(sweep.dir)
    sweep.release()
    sweep.until(lambda: sweep.states() == ["finished"], "the cell")
    assert "WARNING" in sweep.tend("status").stdout
    assert "than was submitted" in sweep.tend("status").stdout
    assert "012345" in sweep.reports()[0]["warnings"][0]


# Faults of single cells and jobs, and a controller that comes and goes.


@dataclass(frozen=True)
class Storm:
    """What was seen of a sweep with a fault for each cell."""

    sweep: Sweep
    code: int
    """The exit code of what waited for the sweep."""
    said: str
    statuses: list[dict[str, Any]]
    reports: list[dict[str, Any]]
    finished: dict[Path, int]
    relaunched: int
    """The exit code of the relaunch."""
    repeated: dict[int, int] = field(default_factory=dict)
    seen: list[Any] = field(default_factory=list)
    accounted: list[str] = field(default_factory=list)

    @property
    def states(self) -> list[str]:
        """States after the storm, by seed."""
        return [report["state"] for report in self.reports]


UNTOUCHED, SIGNALLED, KILLED, SPEECHLESS, RAISING, REQUEUED, ALONE = range(SEEDS)


@pytest.fixture(scope="module")
def storm(lab: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Storm:
    sweep = Sweep(lab, tmp_path_factory.mktemp("storm"), SEEDS)
    sweep.slow()
    repeated, seen = dict[int, int](), list[Any]()
    with sweep.running() as command:
        sweep.under_way(sweep.seeds)
        lab.restart_controller()
        sweep.break_cell(RAISING)
        sweep.kill_cell(KILLED)
        sweep.kill_job(SPEECHLESS)
        lab.run("scancel", "--signal=USR2", sweep.job(SIGNALLED))
        lab.run("scontrol", "requeue", sweep.job(REQUEUED))
        for seed in (SIGNALLED, REQUEUED):
            sweep.until(
                lambda seed=seed: sweep.status(seed)["state"] == "preempted", f"cell {seed}"
            )
            repeated[seed] = sweep.repeated(seed)
        # What ends while its controller is away may drain the node: that is SLURM's own affair.
        sweep.until(lambda: not lab.run("squeue", "-h", "-t", "completing"), "ends of jobs")
        lab.stop_controller()
        sweep.signal_task(ALONE, signal.SIGUSR2)
        sweep.until(lambda: sweep.status(ALONE)["state"] == "preempted", "the cell alone")
        repeated[ALONE] = sweep.repeated(ALONE)
        seen.append(json.loads(sweep.tend("status", "--json").stdout)["problem"])
        lab.start_controller()
        for seed in (SIGNALLED, REQUEUED, ALONE):
            sweep.restarted(seed)
        sweep.fast()
        code, said = sweep.end(command)
    statuses, reports = [sweep.status(seed) for seed in sweep.seeds], sweep.reports()
    accounted = [sweep.sacct(seed) for seed in sweep.seeds]
    sweep.mend_cell(RAISING)
    finished = sweep.untouched()
    relaunched = sweep.relaunch()
    return Storm(
        sweep, code, said, statuses, reports, finished, relaunched, repeated, seen, accounted
    )


def test_a_command_whose_cells_fail_ends_with_1_and_names_each_with_its_log(storm: Storm) -> None:
    assert storm.code == 1
    for seed in (KILLED, SPEECHLESS, RAISING):
        lines = [line for line in storm.said.splitlines() if storm.sweep.cell(seed).name in line]
        assert any(str(storm.sweep.cell(seed) / "log.txt") in line for line in lines)


def test_a_cell_that_raises_is_failed_in_status_and_accounting_and_the_others_finish(
    storm: Storm,
) -> None:
    assert storm.statuses[RAISING]["state"] == "failed"
    assert "Traceback" in storm.statuses[RAISING]["error"]
    assert "BrokenCellError: broken by the test" in storm.reports[RAISING]["reason"]
    assert storm.accounted[RAISING] == "FAILED"
    for seed in (UNTOUCHED, SIGNALLED, REQUEUED, ALONE):
        assert storm.states[seed] == "finished"
        assert storm.accounted[seed] == "COMPLETED"


def test_a_cell_killed_hard_is_failed_and_says_by_what(storm: Storm) -> None:
    assert storm.statuses[KILLED]["state"] == "failed"
    assert "SIGKILL" in storm.statuses[KILLED]["error"]
    assert storm.accounted[KILLED] == "FAILED"


def test_a_job_that_died_silently_is_lost_and_accounting_says_how(storm: Storm) -> None:
    assert storm.statuses[SPEECHLESS]["state"] == "running"
    assert storm.states[SPEECHLESS] == "lost"
    assert storm.reports[SPEECHLESS]["reason"] == f"SLURM: {storm.accounted[SPEECHLESS]}"


@pytest.mark.parametrize("seed", [SIGNALLED, REQUEUED], ids=["USR2", "scontrol requeue"])
def test_a_requeued_cell_goes_on_in_its_directory_and_repeats_no_step(
    storm: Storm, seed: int
) -> None:
    assert len(storm.statuses[seed]["attempts"]) == 2
    assert [a["slurm_restarts"] for a in storm.statuses[seed]["attempts"]] == [0, 1]
    assert storm.repeated[seed] == 0


def test_a_sweep_outlives_its_controller_and_jobs_requeue_themselves_when_it_is_back(
    storm: Storm,
) -> None:
    assert len(storm.statuses[UNTOUCHED]["attempts"]) == 1
    assert "squeue" in storm.seen[0]
    assert len(storm.statuses[ALONE]["attempts"]) == 2
    assert storm.repeated[ALONE] == 0


def test_a_relaunch_starts_failed_and_lost_cells_and_touches_no_finished_one(storm: Storm) -> None:
    assert storm.relaunched == 0
    assert len(storm.finished) == 4
    for seed in storm.sweep.seeds:
        again = seed in (KILLED, SPEECHLESS, RAISING)
        assert storm.sweep.starts(seed) == len(storm.statuses[seed]["attempts"]) + again
    now = storm.sweep.untouched()
    assert {cell: now[cell] for cell in storm.finished} == storm.finished


def test_after_the_storm_metrics_are_those_of_an_undisturbed_sweep(
    storm: Storm, undisturbed: list[Records]
) -> None:
    assert same(storm.sweep, undisturbed)


# Several cells in a job, preempted for real, on a cluster without accounting.


@pytest.fixture(scope="module")
def packed(plain: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Storm:
    arguments = ("hydra.launcher.cells_per_task=2", "hydra.launcher.cpus_per_task=2")
    sweep = Sweep(plain, tmp_path_factory.mktemp("packed"), 4, *arguments)
    sweep.slow()
    sweep.submit()
    with preempted(sweep, list(sweep.seeds)) as (repeated, seen):
        pass
    sweep.under_way(sweep.seeds, start=2)
    sweep.break_cell(1)
    sweep.kill_job(2)
    sweep.fast()
    watched = sweep.tend("status", "--watch", "--json")
    statuses, reports = [sweep.status(seed) for seed in sweep.seeds], sweep.reports()
    sweep.mend_cell(1)
    finished = sweep.untouched()
    relaunched = sweep.relaunch()
    return Storm(
        sweep,
        watched.returncode,
        watched.stdout,
        statuses,
        reports,
        finished,
        relaunched,
        repeated,
        seen,
    )


@contextmanager
def preempted(sweep: Sweep, seeds: list[int]) -> Iterator[tuple[dict[int, int], list[Any]]]:
    """Meanwhile an urgent job has the whole node.

    Yields:
        The steps that each cell must repeat, and the states of all cells.
    """
    sweep.under_way(seeds)
    go = sweep.folder / "go"
    wait = f"while [ ! -e {go} ]; do sleep 0.1; done"
    output = f"--output={sweep.folder / 'urgent'}"
    urgent = sweep.cluster.run(
        "sbatch", "--parsable", "--partition=urgent", "--cpus-per-task=8", output, f"--wrap={wait}"
    )
    running = ("squeue", "--noheader", "--format=%T", f"--jobs={urgent}")
    sweep.until(lambda: sweep.cluster.run(*running) == "RUNNING", "the urgent job")
    yield {seed: sweep.repeated(seed) for seed in seeds}, [r["state"] for r in sweep.reports()]
    go.touch()


@pytest.mark.slow  # minutes of waiting; what a cell does when its job ends is held by the storm
def test_a_real_preemption_costs_no_step_and_every_cell_comes_back(packed: Storm) -> None:
    assert packed.seen == ["requeued"] * 4
    assert packed.repeated == dict.fromkeys(range(4), 0)
    assert [len(status["attempts"]) for status in packed.statuses] == [2] * 4


@pytest.mark.slow  # minutes of waiting; what a cell does when its job ends is held by the storm
def test_a_cell_dies_without_its_neighbour_in_the_same_job(packed: Storm) -> None:
    assert packed.code == 1
    assert packed.states[:2] == ["finished", "failed"]
    assert "BrokenCellError" in packed.statuses[1]["error"]


@pytest.mark.slow  # minutes of waiting; what a cell does when its job ends is held by the storm
def test_without_accounting_cells_of_a_dead_job_are_lost_too(packed: Storm) -> None:
    assert packed.states[2:] == ["lost", "lost"]
    assert [status["state"] for status in packed.statuses[2:]] == ["running"] * 2


@pytest.mark.slow  # minutes of waiting; what a cell does when its job ends is held by the storm
def test_after_preemption_and_deaths_a_relaunch_completes_the_sweep(
    packed: Storm, undisturbed: list[Records]
) -> None:
    assert packed.relaunched == 0
    assert [packed.sweep.starts(seed) for seed in range(4)] == [2, 3, 3, 3]
    now = packed.sweep.untouched()
    assert {cell: now[cell] for cell in packed.finished} == packed.finished
    assert same(packed.sweep, undisturbed)


# Signals that come at a bad time, and a lost node.


@dataclass(frozen=True)
class Rough:
    """What was seen of a sweep of which two cells may run at once."""

    sweep: Sweep
    repeated: dict[int, int]
    seen: dict[int, str]
    """States of the cells that were preempted."""
    lost: dict[int, int]
    """The cells that lost their node, and how often they had been started."""
    most_running: int
    """The most jobs at once that were seen."""


@pytest.fixture(scope="module")
def rough(blunt: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Rough:
    two = "hydra.launcher.array_parallelism=2"
    sweep = Sweep(blunt, tmp_path_factory.mktemp("rough"), 3, two)
    sweep.slow()
    sweep.submit(HOLD)
    sweep.signal_start(0, signal.SIGUSR2)
    with most_running(sweep) as counts:
        sweep.until(lambda: len(sweep.working()) == 2, "two cells at work")
        working = sweep.working()
        with preempted(sweep, working) as (repeated, states):
            seen = {seed: states[seed] for seed in working}
        sweep.until(lambda: len(sweep.working()) == 2, "two cells at work again")
        lost = {seed: sweep.starts(seed) for seed in sweep.working()}
        lose_node(sweep)
        sweep.fast()

        def finished() -> bool:
            # A requeued job may come to the node while the last step of its first run is still
            # leaving; the controller then drains the node, and an operator gives it back.
            if "drain" in blunt.run("sinfo", "--noheader", "--format=%T"):
                blunt.run("scontrol", "update", node_of(sweep), "state=resume")
            return set(sweep.states()) == {"finished"}

        sweep.until(finished, "all cells")
    return Rough(sweep, repeated, seen, lost, max(counts))


def node_of(sweep: Sweep) -> str:
    """The node, as scontrol wants it."""
    name = sweep.cluster.run("sinfo", "--noheader", "--partition=main", "--format=%n")
    return f"nodename={name}"


def lose_node(sweep: Sweep) -> None:
    """The controller gives the node up, and has it back once its jobs are gone from it."""
    cluster = sweep.cluster
    cluster.run("scontrol", "update", node_of(sweep), "state=down", "reason=lost")
    gone = ("squeue", "--noheader", "--states=running,completing")
    sweep.until(lambda: not cluster.run(*gone), "the end of all jobs on the node")
    cluster.start_node()


@contextmanager
def most_running(sweep: Sweep) -> Iterator[list[int]]:
    """Count a sweep's running jobs again and again."""
    name = Ledger.read(sweep.dir).submissions[-1].job_name
    arguments = ("squeue", "-h", "-r", "-t", "running", "-o", "%i", f"--name={name}")
    counts, over = [0], threading.Event()

    def count() -> None:
        while not over.wait(0.2):
            counts.append(len(sweep.cluster.run(*arguments).split()))

    thread = threading.Thread(target=count)
    thread.start()
    try:
        yield counts
    finally:
        over.set()
        thread.join()


@pytest.mark.slow  # minutes of waiting; what a cell does when its job ends is held by the storm
def test_no_more_jobs_than_wanted_run_at_once(rough: Rough) -> None:
    assert rough.most_running == 2


@pytest.mark.slow  # minutes of waiting; what a cell does when its job ends is held by the storm
def test_a_preemption_announced_by_sigterm_alone_costs_no_step(rough: Rough) -> None:
    assert list(rough.seen.values()) == ["requeued"] * 2
    assert list(rough.repeated.values()) == [0, 0]


@pytest.mark.slow  # minutes of waiting; what a cell does when its job ends is held by the storm
def test_cells_on_a_lost_node_come_back_by_themselves_and_finish(
    rough: Rough, undisturbed: list[Records]
) -> None:
    assert len(rough.lost) == 2
    assert {seed: rough.sweep.starts(seed) - 1 for seed in rough.lost} == rough.lost
    assert same(rough.sweep, undisturbed)


@pytest.mark.slow  # minutes of waiting; what a cell does when its job ends is held by the storm
def test_a_preemption_that_comes_while_a_job_is_loading_is_received(rough: Rough) -> None:
    causes = rough.sweep.causes(0)
    assert causes[0] == "preemption"
    assert rough.sweep.starts(0) == len(causes) - 1, "the cell had not begun"


# Time limits: two sweeps of one cell that do nothing but wait.


@dataclass(frozen=True)
class TimeLimits:
    """Cells that are slower than their jobs' time allows."""

    patient: Sweep
    impatient: Sweep
    patient_command: Any
    impatient_command: Any


@pytest.fixture(scope="module")
def time_limits(lab: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TimeLimits]:
    """Each job works for a minute, then saves and leaves."""
    # SLURM kills at the limit itself: far behind, lest a busy machine still loads a cell by then.
    limits = ("hydra.launcher.timeout_min=2", "hydra.launcher.signal_delay_s=59")
    with ExitStack() as stack:
        sweeps, commands = [], []
        for allowed in (20, 0):
            word = f"hydra.launcher.max_num_timeout={allowed}"
            sweep = Sweep(lab, tmp_path_factory.mktemp("limits"), 1, *limits, word)
            # So slow that none of them gets as far as an evaluation, which is never cut in half.
            sweep.slow(2.0)
            sweeps.append(sweep)
            commands.append(stack.enter_context(sweep.running()))
        yield TimeLimits(*sweeps, *commands)


@pytest.mark.slow  # minutes of waiting; the signal of a time limit is that of the storm
def test_a_cell_that_needs_the_time_of_three_jobs_gets_it(
    time_limits: TimeLimits, undisturbed: list[Records]
) -> None:
    sweep = time_limits.patient
    sweep.restarted(0, 3)
    sweep.fast()
    assert sweep.end(time_limits.patient_command)[0] == 0
    causes = sweep.causes(0)
    assert causes == ["time limit"] * (len(causes) - 1) + [None]
    # A machine may be so busy that a job's time is over before its cell has begun.
    assert len(causes) >= sweep.starts(0) >= 3
    sweep.until(lambda: sweep.sacct(0) == "COMPLETED", "sacct")
    assert same(sweep, undisturbed)


@pytest.mark.slow  # minutes of waiting; the signal of a time limit is that of the storm
def test_a_cell_that_may_not_time_out_fails_plainly_and_a_relaunch_goes_on(
    time_limits: TimeLimits, undisturbed: list[Records]
) -> None:
    sweep = time_limits.impatient
    code, said = sweep.end(time_limits.impatient_command)
    line = "timed out 1 times; state saved: relaunch with a larger hydra.launcher.timeout_min"
    assert code == 1
    assert line in said
    assert sweep.status(0)["state"] == "failed"
    assert sweep.status(0)["error"].startswith(line)
    sweep.until(lambda: sweep.sacct(0) == "FAILED", "sacct")
    assert sweep.repeated(0) == 0
    sweep.fast()
    before = sweep.starts(0)
    assert sweep.relaunch("hydra.launcher.timeout_min=5") == 0
    assert sweep.starts(0) == before + 1
    assert same(sweep, undisturbed)
