"""Runs brought to the server from their own records, after whatever happened to their attempts."""

import os
import shutil
import signal
import subprocess
import sys
from functools import partial

import pytest

from sdqn_lab import sweep
from sdqn_lab.launching.ledger import Entry, Ledger
from sdqn_lab.runs.directory import TRACKER_LOCK, RunDirectory
from sdqn_lab.tracking import sync
from sdqn_lab.tracking.follow import Follower
from sdqn_lab.tracking.wandb import NoConnectionError, SyncError
from tests.tracking import runs
from tests.tracking.runs import (
    CONFIG,
    WANDB,
    begin,
    records,
    wait_until,
    write_records,
)
from tests.tracking.wandb_file import OfflineRun

sync_run = partial(sync.sync_run, init_timeout_seconds=5.0, finish_timeout_seconds=5.0)
attempt = partial(runs.attempt, mode="offline")


def killed(directory, shown, count, sent, **settings):
    """An attempt that dies by kill -9, its follower too, which was some lines behind."""
    begin(directory, **settings)
    write_records(directory, sent)
    follower = Follower(directory, WANDB, shown.append)
    wait_until(lambda: lines_delivered(directory) == sent)
    write_records(directory, count)
    follower._process.kill()
    follower.finish()
    shown.clear()


def lines_delivered(directory):
    found = directory.delivered().get(WANDB, {})
    return found.get("attempt") == len(directory.status()["attempts"]) and found["lines"]


def wandb_sync(directory):
    """The client's own upload, of all segments there are."""
    segments = sorted(str(path) for path in directory.path.glob("wandb/offline-run-*"))
    command = [sys.executable, "-m", "wandb", "sync", *segments]
    subprocess.run(command, check=True, timeout=60, capture_output=True)


def arrived(server, lines):
    """The server has these lines, and each of them came once."""
    run = server.run()
    assert run.records == lines
    assert run.received == len(lines)
    return run


def test_a_run_that_trained_offline_arrives_as_a_whole(directory, shown, server):
    attempt(directory, shown, 10)
    assert server.runs == {}
    assert sync_run(directory, shown.append) == (10, 0)
    run = arrived(server, records(10))
    assert (run.name, run.exit_code, run.preempting) == ("pong_seed0", 0, False)
    assert run.config["choices"]["value"] == CONFIG["choices"]
    assert shown == ["pong_seed0: 10 records uploaded, 0 were there"]


def test_a_second_sync_sends_nothing_and_a_longer_run_what_is_new(directory, shown, server):
    attempt(directory, shown, 10, "preempted")
    sync_run(directory, shown.append)
    assert sync_run(directory, shown.append) == (0, 10)
    attempt(directory, shown, 16)
    assert sync_run(directory, shown.append) == (6, 10)
    arrived(server, records(16))


def test_the_client_has_nothing_to_upload_after_a_sync(directory, shown, server):
    attempt(directory, shown, 8, "preempted")
    attempt(directory, shown, 10)
    sync_run(directory, shown.append)
    wandb_sync(directory)
    arrived(server, records(10))


def test_a_sync_after_the_clients_own_sends_nothing(directory, shown, server):
    attempt(directory, shown, 10)
    wandb_sync(directory)
    assert sync_run(directory, shown.append) == (0, 10)
    arrived(server, records(10))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("online", "offline"),
        ("offline", "online"),
        pytest.param("online", "online", marks=pytest.mark.slow),
        pytest.param("offline", "offline", marks=pytest.mark.slow),
    ],
)
def test_after_a_killed_attempt_and_another_every_line_is_there(
    directory, shown, server, first, second
):
    killed(directory, shown, 10, 7, mode=first)
    attempt(directory, shown, 16, mode=second)
    sync_run(directory, shown.append)
    assert arrived(server, records(16)).exit_code == 0


def test_a_killed_run_that_nobody_continued_is_uploaded_as_unfinished(directory, shown, server):
    killed(directory, shown, 10, 4, mode="offline")
    assert directory.state == "running"
    assert sync_run(directory, shown.append) == (10, 0)
    run = arrived(server, records(10))
    assert (run.exit_code, run.preempting) == (143, True)


def test_the_segment_after_a_kill_holds_the_whole_record_and_replaces_the_torn_one(
    directory, shown, server
):
    killed(directory, shown, 10, 7, mode="offline")
    attempt(directory, shown, 16)
    first, second = sorted(directory.path.glob("wandb/offline-run-*"))
    assert OfflineRun(second).records == records(16)
    assert [len(list(path.glob("*.synced"))) for path in (first, second)] == [1, 0]
    wandb_sync(directory)
    arrived(server, records(16))


@pytest.mark.parametrize("arrived_before", [0, 7, 20])
def test_an_interrupted_sync_is_completed_by_the_next(directory, shown, server, arrived_before):
    attempt(directory, shown, 20)
    server.mute_after_records = arrived_before
    with pytest.raises(SyncError, match="pong_seed0"):
        sync_run(directory, shown.append, finish_timeout_seconds=1.0)
    assert len(server.run().lines) == arrived_before
    assert not list(directory.path.glob("wandb/*/*.synced"))
    server.mute_after_records, server.mute = None, False
    assert sync_run(directory, shown.append) == (20 - arrived_before, arrived_before)
    arrived(server, records(20))


@pytest.mark.parametrize(
    ("state", "code", "preempting"),
    [("finished", 0, False), ("failed", 1, False), ("preempted", 143, True)],
)
def test_w_and_b_shows_the_state_that_the_run_is_in(
    directory, shown, server, state, code, preempting
):
    attempt(directory, shown, 4, state)
    sync_run(directory, shown.append)
    assert (server.run().exit_code, server.run().preempting) == (code, preempting)


def test_a_continued_run_that_failed_first_ends_as_finished(directory, shown, server):
    attempt(directory, shown, 4, "failed")
    sync_run(directory, shown.append)
    attempt(directory, shown, 8)
    sync_run(directory, shown.append)
    assert server.run().exit_code == 0


def test_a_run_seen_under_another_path_is_the_same_run(directory, shown, server, tmp_path):
    attempt(directory, shown, 6, "preempted", mode="online")
    directory.path.parent.rename(tmp_path / "mounted elsewhere")
    moved = RunDirectory(tmp_path / "mounted elsewhere" / "pong_seed0")
    write_records(moved, 9)
    assert sync_run(moved, shown.append) == (3, 6)
    arrived(server, records(9))


def test_a_copy_that_goes_on_training_is_a_run_of_its_own(directory, shown, server, tmp_path):
    attempt(directory, shown, 6, "preempted", mode="online")
    shutil.copytree(directory.path, tmp_path / "copy" / "pong_seed0")
    attempt(RunDirectory(tmp_path / "copy" / "pong_seed0"), shown, 9, mode="online")
    assert sorted(len(run.lines) for run in server.runs.values()) == [6, 9]


def test_project_entity_and_tags_are_those_of_the_runs_own_tracker(directory, shown, server):
    begin(directory, project="mine", entity="we", tags=["a"])
    write_records(directory, 3)
    directory.end_attempt("finished")
    sync_run(directory, shown.append)
    assert (server.run().project, server.run().entity) == ("mine", "we")


def test_the_project_that_an_attempt_found_in_its_environment_is_kept(
    directory, shown, server, monkeypatch
):
    monkeypatch.setenv("WANDB_PROJECT", "of the job")
    attempt(directory, shown, 4)
    monkeypatch.delenv("WANDB_PROJECT")
    sync_run(directory, shown.append)
    assert server.run().project == "of the job"


@pytest.mark.parametrize("target", ["recorder.NoMirror", "tensorboard.TensorBoard", "not.there"])
def test_a_run_with_another_tracker_is_uploaded_with_defaults(directory, shown, server, target):
    begin(directory, _target_=f"sdqn_lab.tracking.{target}", project="not W&B's")
    write_records(directory, 5)
    directory.end_attempt("finished")
    assert sync_run(directory, shown.append) == (5, 0)
    assert arrived(server, records(5)).project == "sdqn_lab"
    assert sync_run(directory, shown.append) == (0, 5)


@pytest.mark.parametrize("mode", ["offline", "disabled"])
def test_a_mode_in_the_environment_does_not_keep_a_sync_from_the_server(
    directory, shown, server, monkeypatch, mode
):
    attempt(directory, shown, 4)
    monkeypatch.setenv("WANDB_MODE", mode)
    assert sync_run(directory, shown.append) == (4, 0)
    arrived(server, records(4))


def test_a_run_that_a_process_works_on_is_left_alone_with_a_line(directory, shown, server):
    begin(directory)
    write_records(directory, 3)
    with directory.lock():
        assert sync_run(directory, shown.append) is None
    assert shown == ["pong_seed0: a process works on it, skipped"]
    assert server.runs == {}


def test_a_run_whose_tracker_still_delivers_is_left_alone_with_a_line(directory, shown, server):
    runs.attempt(directory, shown, 3, mode="offline")
    with directory.lock(TRACKER_LOCK):
        assert sync_run(directory, shown.append) is None
    assert shown == ["pong_seed0: its tracker is still delivering, skipped"]
    assert server.runs == {}


def test_during_a_sync_the_next_attempt_may_begin(directory, shown, server, monkeypatch):
    begin(directory)
    write_records(directory, 3)

    def upload(*_):
        with directory.lock():
            return sync.Delivered(3, 0)

    monkeypatch.setattr(sync, "upload", upload)
    assert sync_run(directory, shown.append) == (3, 0)


def test_a_directory_without_a_run_is_left_alone_with_a_line(directory, shown, server):
    directory.path.mkdir(parents=True)
    assert sync_run(directory, shown.append) is None
    assert shown == ["pong_seed0: has not begun, skipped"]


def offline_segments(directory):
    return {path.name: path.stat().st_mtime_ns for path in directory.path.glob("wandb/*/*")}


@pytest.mark.parametrize("fault", ["no key", "short key", "wrong key", "no server"])
def test_no_connection_is_one_line_and_changes_nothing(
    directory, shown, server, monkeypatch, capfd, fault
):
    attempt(directory, shown, 4)
    before = offline_segments(directory)
    if fault == "no key":
        monkeypatch.delenv("WANDB_API_KEY")
    if fault == "short key":
        monkeypatch.setenv("WANDB_API_KEY", "short")
    if fault == "wrong key":
        server.refuse_all_with = 401
    if fault == "no server":
        server.die()
    with pytest.raises(NoConnectionError) as caught:
        sync_run(directory, shown.append, init_timeout_seconds=1.0)
    assert str(caught.value).startswith(f"{directory.path}: ")
    assert "\n" not in str(caught.value)
    assert offline_segments(directory) == before
    assert capfd.readouterr() == ("", "")


def test_refused_records_are_an_error_and_nothing_is_marked(directory, shown, server):
    attempt(directory, shown, 4)
    server.refuse_records_with = 403
    with pytest.raises(SyncError, match="Fatal error while uploading"):
        sync_run(directory, shown.append)
    assert not list(directory.path.glob("wandb/*/*.synced"))


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("status.json", "{"),
        ("config.yaml", "a: [b"),
        ("config.yaml", "word"),
        ("config.yaml", "a: &a [b]\nc: *a"),
        ("metrics.jsonl", "{\n"),
        ("wandb/run.json", "{}"),
    ],
)
def test_a_damaged_file_is_one_line(directory, shown, server, file, content):
    attempt(directory, shown, 4)
    (directory.path / file).write_text(content)
    with pytest.raises(SyncError) as caught:
        sync_run(directory, shown.append)
    assert str(directory.path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_machine_that_uploads_tells_nothing_of_itself(directory, shown, server):
    attempt(directory, shown, 4)
    sync_run(directory, shown.append)
    assert server.run().files == {"config.yaml", "wandb-summary.json"}


def test_a_sync_leaves_no_files_of_the_client(directory, shown, server, tmp_path):
    begin(directory)
    write_records(directory, 3)
    directory.end_attempt("finished")
    sync_run(directory, shown.append)
    assert [path.name for path in directory.path.glob("wandb/*")] == ["run.json"]
    assert list((tmp_path / "home").iterdir()) == []


def test_ctrl_c_does_not_wait_for_the_server(directory, shown, server, pytestconfig):
    attempt(directory, shown, 4)
    server.hangs = True
    command = [sys.executable, "-m", "sdqn_lab.sweep", "sync", str(directory.path)]
    environment = {**os.environ, "PYTHONPATH": str(pytestconfig.rootpath)}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
    wait_until(lambda: server.asked)
    process.send_signal(signal.SIGINT)
    wait_until(lambda: process.poll() is not None)
    assert (process.returncode, process.stderr.read()) == (130, b"")
    server.hangs = False
    assert sync_run(directory, shown.append) == (4, 0)


BARE = """
import sys
sys.modules |= dict.fromkeys(("torch", "hydra", "omegaconf", "gymnasium"))  # importing them fails
from sdqn_lab.runs.directory import RunDirectory
from sdqn_lab.tracking.sync import sync_run
print(*sync_run(RunDirectory(sys.argv[1]), print))
"""


def test_a_login_node_needs_neither_torch_nor_hydra(directory, shown, server, pytestconfig):
    attempt(directory, shown, 4)
    command = [sys.executable, "-c", BARE, str(directory.path)]
    done = subprocess.run(
        command, cwd=pytestconfig.rootpath, capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines() == ["pong_seed0: 4 records uploaded, 0 were there", "4 0"]
    assert (done.returncode, done.stderr) == (0, "")
    arrived(server, records(4))


@pytest.fixture
def norms(directory, shown):
    """A sweep of two cells that trained offline, and of one that never began."""
    ledger = Ledger()
    for seed in range(3):
        name = f"pong_seed{seed}"
        ledger.cells[name] = Entry(overrides=[], game="pong", seed=seed, steps=1000)
        if seed < 2:
            attempt(RunDirectory(directory.path.parent / name), shown, 4)
    ledger.write(directory.path.parent)
    return directory.path.parent


def test_a_sweep_is_uploaded_by_one_command_and_a_second_one_sends_nothing(norms, server, capsys):
    for sent, present in ((4, 0), (0, 4)):
        capsys.readouterr()
        assert sweep.main(["sync", str(norms)]) == 0
        uploaded = f"{sent} records uploaded, {present} were there"
        assert capsys.readouterr().err.splitlines() == [
            f"pong_seed0: {uploaded}",
            f"pong_seed1: {uploaded}",
            "pong_seed2: has not begun, skipped",
        ]
    assert sorted(run.name for run in server.runs.values()) == ["pong_seed0", "pong_seed1"]
    assert all(run.records == records(4) for run in server.runs.values())


def test_a_single_run_is_uploaded_by_the_same_command(norms, server, capsys):
    (norms / "pong_seed1" / "config.yaml").write_text("seed: 1")
    assert sweep.main(["sync", str(norms / "pong_seed1")]) == 0
    assert [run.name for run in server.runs.values()] == ["pong_seed1"]


def test_a_cell_that_cannot_be_uploaded_is_named_and_the_others_arrive(norms, server, capsys):
    (norms / "pong_seed0" / "status.json").write_text("{")
    assert sweep.main(["sync", str(norms)]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith(f"error: {norms}/pong_seed0")
    assert [run.name for run in server.runs.values()] == ["pong_seed1"]


def test_without_a_connection_a_sweep_is_one_line(norms, server, monkeypatch, capsys):
    monkeypatch.delenv("WANDB_API_KEY")
    assert sweep.main(["sync", str(norms)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {norms}/pong_seed0: ")
