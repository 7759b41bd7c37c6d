"""The W&B tracker, against the real client: offline files read back, online on loopback."""

import signal
import subprocess
import sys

import psutil
import pytest

from sdqn_lab.tracking.follow import Follower
from sdqn_lab.tracking.tracker import TrackedRun
from tests.tracking.runs import (
    CONFIG,
    WANDB,
    attempt,
    begin,
    delivered_all,
    records,
    wait_until,
    write_records,
)
from tests.tracking.wandb_file import offline_runs


def one(shown):
    """The only line, which is a warning and says what to write."""
    (line,) = shown
    assert line.startswith("WARNING pong_seed0: ")
    assert "python -m sdqn_lab.sweep sync" in line
    return line


def unwrapped(config):
    return {key: item["value"] for key, item in config.items() if not key.startswith("_")}


def test_an_offline_run_holds_every_record_and_says_nothing(directory, shown, capfd):
    assert attempt(directory, shown, 20)
    (segment,) = offline_runs(directory.path)
    assert segment.records == records(20)
    assert shown == []
    assert capfd.readouterr() == ("", "")


def test_an_offline_run_knows_name_group_config_and_project(directory, shown):
    directory.path.mkdir(parents=True)
    (directory.path.parent / "ledger.json").touch()
    attempt(directory, shown, 1, tags=["a", "b"], project="mine", notes="why", job_type="pilot")
    (segment,) = offline_runs(directory.path)
    facts = {"directory": str(directory.path), "attempt": 1}
    known = TrackedRun.of(directory, print)
    assert segment.config == {**known.config, "run": facts, "_wandb": {}}
    run = segment.run
    assert (run.run_id, run.display_name, run.run_group) == (known.id, "pong_seed0", "norms")
    assert (run.project, list(run.tags)) == ("mine", ["a", "b"])
    assert (run.notes, run.job_type) == ("why", "pilot")


def test_every_metric_is_drawn_against_agent_steps(directory, shown):
    attempt(directory, shown, 1)
    (segment,) = offline_runs(directory.path)
    assert segment.step_metrics == {"step": "", "*": "step"}


@pytest.mark.parametrize(
    ("state", "code", "preempting"),
    [
        ("finished", 0, False),
        ("failed", 1, False),
        ("preempted", 143, True),
        ("running", 143, True),
    ],
)
def test_w_and_b_gets_the_state_of_the_run(directory, shown, state, code, preempting):
    attempt(directory, shown, 2, state)
    (segment,) = offline_runs(directory.path)
    assert (segment.exit_code, segment.preempting) == (code, preempting)


def test_a_continued_offline_run_opens_a_linked_segment_with_the_whole_record(directory, shown):
    attempt(directory, shown, 10, "preempted")
    attempt(directory, shown, 14)
    first, second = offline_runs(directory.path)
    assert first.run.run_id == second.run.run_id
    assert second.config["run"]["attempt"] == 2
    assert second.records == records(14)


def test_uploading_all_offline_segments_brings_each_record_once(directory, shown, server):
    attempt(directory, shown, 10, "preempted", mode="offline")
    attempt(directory, shown, 14, mode="offline")
    segments = sorted(str(path) for path in directory.path.glob("wandb/offline-run-*"))
    subprocess.run([sys.executable, "-m", "wandb", "sync", *segments], check=True, timeout=60)
    assert server.run().records == records(14)
    assert server.run().exit_code == 0


def test_all_files_lie_in_the_run_directory(directory, shown, tmp_path, server):
    attempt(directory, shown, 2, mode="offline")
    attempt(directory, shown, 2)
    assert {path.name for path in tmp_path.iterdir()} == {"norms", "home"}
    assert list((tmp_path / "home").iterdir()) == []


def test_mode_offline_in_the_environment_beats_a_configured_key(
    directory, shown, server, monkeypatch
):
    monkeypatch.setenv("WANDB_MODE", "offline")
    attempt(directory, shown, 3)
    assert len(offline_runs(directory.path)) == 1
    assert server.runs == {}


def test_the_configs_mode_beats_the_environments(directory, shown, server, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    attempt(directory, shown, 3, mode="online")
    assert server.run().records == records(3)


def test_mode_disabled_leaves_nothing(directory, shown, server, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    attempt(directory, shown, 3)
    assert not (directory.path / "wandb").exists()
    assert server.runs == {}
    assert shown == []


def test_online_without_a_key_is_recorded_offline_with_one_warning(directory, shown):
    attempt(directory, shown, 3, mode="online")
    (segment,) = offline_runs(directory.path)
    assert segment.records == records(3)
    assert "no API key configured" in one(shown)


def test_a_configured_key_brings_the_run_online(directory, shown, server):
    attempt(directory, shown, 20)
    run = server.run()
    assert run.records == records(20)
    assert (run.id, run.name) == (TrackedRun.of(directory, print).id, "pong_seed0")
    assert unwrapped(run.config)["choices"] == CONFIG["choices"]
    assert (run.exit_code, shown) == (0, [])


def test_a_key_in_netrc_counts(directory, shown, server, monkeypatch, tmp_path):
    monkeypatch.delenv("WANDB_API_KEY")
    host = server.url.removeprefix("http://")
    netrc = tmp_path / "home" / ".netrc"
    netrc.write_text(f"machine {host}\n  login user\n  password {'0123456789' * 4}\n")
    netrc.chmod(0o600)
    attempt(directory, shown, 3)
    assert server.run().records == records(3)


@pytest.mark.parametrize("before", [5, 10], ids=["lines to send", "lines written again"])
def test_a_continued_online_run_has_each_record_once(directory, shown, server, before):
    attempt(directory, shown, before, "failed")
    attempt(directory, shown, 8, "preempted")
    attempt(directory, shown, 16)
    run = server.run()
    assert (run.records, run.received) == (records(16), 16)
    assert run.exit_code == 0


def test_a_continued_run_may_have_a_changed_config(directory, shown, server):
    attempt(directory, shown, 2, "preempted")
    attempt(directory, shown, 2, tags=["longer"])
    config = unwrapped(server.run().config)
    assert config["tracker"]["tags"] == ["longer"]
    assert config["run"]["attempt"] == 2
    assert shown == []


@pytest.mark.parametrize("fault", ["refused key", "malformed key", "no server"])
def test_without_a_server_a_run_is_one_warning_and_an_offline_record(
    directory, shown, server, monkeypatch, fault
):
    if fault == "refused key":
        server.refuse_all_with = 401
    if fault == "malformed key":
        monkeypatch.setenv("WANDB_API_KEY", "short")
    if fault == "no server":
        server.die()
    attempt(directory, shown, 8, init_timeout_seconds=2.0)
    (segment,) = offline_runs(directory.path)
    assert segment.records == records(8)
    one(shown)


def test_a_full_quota_is_one_warning(directory, shown, server):
    server.refuse_records_with = 403
    begin(directory, finish_timeout_seconds=3.0)
    write_records(directory, 8)
    follower = Follower(directory, WANDB, shown.append)
    directory.end_attempt("finished")
    follower.finish()
    one(shown)


def online(directory, shown, server, **settings):
    """A run whose follower has found the server."""
    begin(directory, **settings)
    write_records(directory, 2)
    follower = Follower(directory, WANDB, shown.append)
    wait_until(lambda: server.runs and directory.delivered())
    return follower


def client(follower):
    """What the follower's client started."""
    return psutil.Process(follower._process.pid).children()


def test_a_server_that_dies_is_one_warning_and_ends_the_follower(directory, shown, server):
    follower = online(directory, shown, server, finish_timeout_seconds=2.0)
    helpers = client(follower)
    server.die()
    write_records(directory, 2000)
    directory.end_attempt("finished")
    follower.finish()
    one(shown)
    follower._process.wait()
    wait_until(lambda: not any(helper.is_running() for helper in helpers))


def test_a_preempted_job_says_so_though_the_scheduler_signals_the_client_too(
    directory, shown, server
):
    follower = online(directory, shown, server)
    for process in (*client(follower), follower._process):
        process.send_signal(signal.SIGUSR2)
    write_records(directory, 4)
    directory.end_attempt("preempted")
    follower.finish()
    wait_until(lambda: delivered_all(directory))
    assert server.run().records == records(4)
    assert (server.run().exit_code, server.run().preempting) == (143, True)
    assert shown == []


@pytest.mark.parametrize("whole", [True, False], ids=["the follower", "its client"])
def test_a_follower_that_is_killed_is_one_warning_and_its_client_ends(
    directory, shown, server, whole
):
    follower = online(directory, shown, server)
    helpers = client(follower)
    for process in [follower._process] if whole else helpers:
        process.kill()
    write_records(directory, 4)
    directory.end_attempt("finished")
    follower.finish()
    one(shown)
    follower._process.wait()
    wait_until(lambda: not any(helper.is_running() for helper in helpers))
    attempt(directory, shown, 6)
    assert (server.run().records, server.run().received) == (records(6), 6)


def test_the_client_is_not_imported_before_a_run_uses_it(pytestconfig):
    code = "import sys, sdqn_lab.tracking.wandb; sys.exit('wandb' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=pytestconfig.rootpath, check=True)


BARE = """
import sys
sys.modules |= dict.fromkeys(("torch", "hydra", "omegaconf", "gymnasium"))  # importing them fails
from sdqn_lab.tracking.follow import main
sys.exit(main())
"""


def test_a_follower_of_wandb_loads_neither_torch_nor_hydra(directory, pytestconfig):
    begin(directory)
    write_records(directory, 2)
    command = [sys.executable, "-c", BARE, str(directory.path)]
    subprocess.run(command, cwd=pytestconfig.rootpath, check=True, stdin=subprocess.DEVNULL)
