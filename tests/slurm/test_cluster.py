"""The cluster of the tests is a SLURM, and nothing of it stays."""

import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.slurm import cluster as module
from tests.slurm.cluster import Cluster, main
from tests.slurm.conftest import demand_slurm

# What a job writes at each start; the count is not set at the first.
STARTS = "echo start ${SLURM_RESTART_COUNT:-0} >> starts; sleep 600"


def submit(cluster: Cluster, script: str, *options: str) -> str:
    return cluster.run("sbatch", "--parsable", *options, f"--wrap={script}")


def state(cluster: Cluster, job: str) -> str:
    return cluster.run("squeue", "--noheader", "--states=all", "--format=%T", f"--jobs={job}")


def starts(count: int) -> Callable[[], bool]:
    log = Path("starts")
    return lambda: log.exists() and len(log.read_text().splitlines()) == count


def test_a_job_runs_and_accounting_says_how_it_ended(lab: Cluster) -> None:
    good = submit(lab, "echo from the node")
    bad = submit(lab, "exit 3")
    ask = ("sacct", "--noheader", "--parsable2", "--allocations", "--format=state,exitcode")

    def ends() -> list[str]:
        return [lab.run(*ask, f"--jobs={job}") for job in (good, bad)]

    lab.wait_until(lambda: ends() == ["COMPLETED|0:0", "FAILED|3:0"], "the two ends in sacct")
    assert Path(f"slurm-{good}.out").read_text() == "from the node\n"


def test_an_array_runs_each_index(cluster: Cluster) -> None:
    submit(cluster, "touch ran_$SLURM_ARRAY_TASK_ID", "--array=0-2,7")
    expected = {"ran_0", "ran_1", "ran_2", "ran_7"}
    cluster.wait_until(lambda: {p.name for p in Path().glob("ran_*")} == expected, "the array")


def test_a_requeued_job_starts_again_soon(cluster: Cluster) -> None:
    job = submit(cluster, STARTS)
    cluster.wait_until(starts(1), "the first start")
    cluster.run("scontrol", "requeue", job)
    cluster.wait_until(starts(2), "the second start")
    assert Path("starts").read_text() == "start 0\nstart 1\n"


def test_an_urgent_job_preempts_a_main_one_which_comes_back(cluster: Cluster) -> None:
    grace = ("scontrol", "update", "PartitionName=main")
    cluster.run(*grace, "GraceTime=0")
    try:
        submit(cluster, STARTS, "--cpus-per-task=8")
        cluster.wait_until(starts(1), "the first start")
        cluster.run("srun", "--partition=urgent", "--cpus-per-task=8", "touch", "urgent_ran")
        assert Path("urgent_ran").exists()
        cluster.wait_until(starts(2), "the second start")
    finally:
        cluster.run(*grace, "GraceTime=30")


def test_a_job_outlives_the_controller(cluster: Cluster) -> None:
    running = submit(cluster, STARTS, "--cpus-per-task=8")
    waiting = submit(cluster, "true", "--cpus-per-task=8")
    cluster.wait_until(starts(1), "the start")
    cluster.stop_controller()
    with pytest.raises(RuntimeError, match="scontrol ping"):
        cluster.run("scontrol", "ping")
    cluster.start_controller()
    assert (state(cluster, running), state(cluster, waiting)) == ("RUNNING", "PENDING")
    assert starts(1)()


def test_a_killed_slurmd_leaves_its_jobs_running_and_takes_them_back(cluster: Cluster) -> None:
    job = submit(cluster, "while [ ! -e go ]; do sleep 0.1; done; touch gone")
    cluster.wait_until(lambda: state(cluster, job) == "RUNNING", "the job")
    cluster.stop_node()
    cluster.start_node()
    Path("go").touch()
    cluster.wait_until(lambda: state(cluster, job) == "COMPLETED", "the job's end")
    assert Path("gone").exists()


def test_clearing_ends_jobs_that_ignore_signals(cluster: Cluster) -> None:
    stubborn = submit(cluster, "trap '' TERM; touch up; while :; do sleep 0.1; done")
    submit(cluster, "true", "--hold")
    cluster.wait_until(Path("up").exists, "the job")
    cluster.clear()
    assert cluster.run("squeue", "--noheader") == ""
    assert state(cluster, stubborn) != "RUNNING"


def test_two_clusters_know_nothing_of_each_other(cluster: Cluster, blunt: Cluster) -> None:
    submit(cluster, "sleep 600")
    assert cluster.run("squeue", "--noheader")
    assert not blunt.run("squeue", "--noheader")


def test_settings_reach_slurm_and_replace_those_set_by_default(
    cluster: Cluster, blunt: Cluster
) -> None:
    config = ("scontrol", "show", "config")
    assert "preempt_send_user_signal" in cluster.run(*config)
    assert "preempt_send_user_signal" not in blunt.run(*config)
    assert "idle_on_node_suspend" in blunt.run(*config)


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL], ids=["exit", "dead_slurm"])
def test_nothing_is_left_of_daemons_and_jobs(slurm_programs: None, end: signal.Signals) -> None:
    with pytest.raises(ZeroDivisionError), Cluster() as gone:
        submit(gone, "setsid sleep 600 & echo $! > pid; trap '' TERM; sleep 600")
        gone.wait_until(lambda: Path("pid").exists() and Path("pid").read_text(), "the job")
        if end is signal.SIGKILL:
            gone.stop_controller(end)
            gone.stop_node()
        raise ZeroDivisionError
    assert not gone.folder.exists()
    assert not [p for p in psutil.process_iter() if str(gone.folder) in _traces(p)]
    assert not _alive(int(Path("pid").read_text()))


def test_what_does_not_start_is_described_with_its_log_and_leaves_nothing(
    slurm_programs: None,
) -> None:
    broken = Cluster(settings={"SlurmctldPort": "nowhere"})
    with pytest.raises(RuntimeError, match=r"(?s)slurmctld ended with 1.*nowhere"):
        broken.up()
    assert not broken.folder.exists()


def test_waiting_in_vain_says_for_what(cluster: Cluster) -> None:
    with pytest.raises(TimeoutError, match=r"(?s)waited 0 s for Godot.*slurmctld: "):
        cluster.wait_until(lambda: False, "Godot", seconds=0)


def test_the_program_brings_up_shows_and_takes_down(
    slurm_programs: None, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Cluster().folder  # pytest's own are closed to others, which munge refuses
    try:
        assert main(["up", str(folder)]) == 0
        assert main(["up", str(folder)]) == 1
        assert main(["status", str(folder)]) == 0
    finally:
        assert main(["down", str(folder)]) == 0
    out, err = capsys.readouterr()
    assert f"export SLURM_CONF={folder}/slurm.conf" in out
    assert "idle" in out
    assert "File exists" in err
    assert not folder.exists()


def test_the_program_takes_down_no_folder_that_is_not_a_clusters(
    slurm_programs: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis").touch()
    assert main(["down", str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"cluster: there is no cluster in {tmp_path}\n"
    assert (tmp_path / "thesis").exists()


def test_a_missing_slurm_skips_with_one_line_and_fails_where_required(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "PROGRAMS", ("sh", "no-such-program"))
    line = r"SLURM is not installed \(no-such-program not found\): make slurm-packages"
    monkeypatch.delenv("SDQN_LAB_REQUIRE_SLURM", raising=False)
    with pytest.raises(pytest.skip.Exception, match=line):
        demand_slurm()
    monkeypatch.setenv("SDQN_LAB_REQUIRE_SLURM", "1")
    with pytest.raises(pytest.fail.Exception, match=line):
        demand_slurm()


def _alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def _traces(process: psutil.Process) -> str:
    """By what a process could be seen to belong to a folder."""
    try:
        return f"{process.cmdline()} {process.cwd()} {process.environ()}"
    except psutil.Error:
        return ""
