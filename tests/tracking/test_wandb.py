"""The W&B mirror, against the real client: offline files read back, online on a loopback server."""

import signal
import subprocess
import sys
import time

import psutil
import pytest

from sdqn_lab.tracking.wandb import WandB
from tests.tracking.runs import CONFIG, Told, mirrored, records
from tests.tracking.wandb_file import offline_runs


@pytest.fixture
def told():
    return Told()


def mirror(run, lines, exit_code=0, **keys):
    tracker = WandB(run, **keys)
    for line in lines:
        tracker.log(line)
    tracker.finish(exit_code)


def unwrapped(config):
    return {key: item["value"] for key, item in config.items() if not key.startswith("_")}


def test_an_offline_run_holds_every_record_and_says_nothing(tmp_path, told, capfd):
    lines = records(20)
    mirror(mirrored(tmp_path / "cell", told), lines)
    (segment,) = offline_runs(tmp_path / "cell")
    assert segment.records == lines
    assert told == []
    assert capfd.readouterr() == ("", "")


def test_an_offline_run_knows_name_group_config_and_project(tmp_path, told):
    mirror(mirrored(tmp_path / "cell", told), records(1), tags=["a", "b"], project="mine")
    (segment,) = offline_runs(tmp_path / "cell")
    facts = {"directory": str(tmp_path / "cell"), "attempt": 1}
    assert segment.config == {**CONFIG, "run": facts, "_wandb": {}}
    run = segment.run
    assert (run.run_id, run.display_name, run.run_group) == (
        "pong_seed0-1234",
        "pong_seed0",
        "norms",
    )
    assert (run.project, list(run.tags)) == ("mine", ["a", "b"])


def test_every_metric_is_drawn_against_agent_steps(tmp_path, told):
    mirror(mirrored(tmp_path / "cell", told), records(1))
    (segment,) = offline_runs(tmp_path / "cell")
    assert segment.step_metrics == {"step": "", "*": "step"}


@pytest.mark.parametrize("code", [0, 1])
def test_the_exit_code_is_told(tmp_path, told, code):
    mirror(mirrored(tmp_path / "cell", told), records(2), exit_code=code)
    (segment,) = offline_runs(tmp_path / "cell")
    assert (segment.exit_code, segment.preempting) == (code, False)


def test_a_preempted_run_is_marked_so(tmp_path, told):
    mirror(mirrored(tmp_path / "cell", told), records(2), exit_code=143)
    (segment,) = offline_runs(tmp_path / "cell")
    assert (segment.exit_code, segment.preempting) == (143, True)


def test_a_continued_offline_run_opens_a_linked_segment_with_the_whole_record(tmp_path, told):
    mirror(mirrored(tmp_path / "cell", told), records(10), exit_code=143)
    continued = mirrored(tmp_path / "cell", told, attempt=2, kept=records(6))
    mirror(continued, records(14, begin=6))
    first, second = offline_runs(tmp_path / "cell")
    assert first.run.run_id == second.run.run_id
    assert second.config["run"]["attempt"] == 2
    assert second.records == records(14)


def test_uploading_all_offline_segments_brings_each_record_once(tmp_path, told, server):
    mirror(mirrored(tmp_path / "cell", told), records(10), exit_code=143, mode="offline")
    continued = mirrored(tmp_path / "cell", told, attempt=2, kept=records(6))
    mirror(continued, records(14, begin=6), mode="offline")
    segments = sorted(str(path) for path in tmp_path.glob("cell/wandb/offline-run-*"))
    subprocess.run([sys.executable, "-m", "wandb", "sync", *segments], check=True, timeout=60)
    assert server.run().records == records(14)
    assert server.run().exit_code == 0


def test_all_files_lie_in_the_run_directory(tmp_path, told):
    mirror(mirrored(tmp_path / "cell", told), records(2))
    assert {path.name for path in tmp_path.iterdir()} == {"cell", "home"}
    assert list((tmp_path / "home").iterdir()) == []


def test_mode_offline_in_the_environment_beats_a_configured_key(
    tmp_path, told, server, monkeypatch
):
    monkeypatch.setenv("WANDB_MODE", "offline")
    mirror(mirrored(tmp_path / "cell", told), records(3))
    assert len(offline_runs(tmp_path / "cell")) == 1
    assert server.runs == {}


def test_mode_disabled_leaves_nothing(tmp_path, told, server, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    mirror(mirrored(tmp_path / "cell", told), records(3))
    assert list((tmp_path / "cell").iterdir()) == []
    assert server.runs == {}
    assert told == []


def test_online_without_a_key_is_recorded_offline_with_one_warning(tmp_path, told):
    mirror(mirrored(tmp_path / "cell", told), records(3), mode="online")
    (segment,) = offline_runs(tmp_path / "cell")
    assert segment.records == records(3)
    (warning,) = told
    assert "no API key configured" in warning
    assert "wandb sync" in warning


def test_a_configured_key_brings_the_run_online(tmp_path, told, server):
    lines = records(20)
    mirror(mirrored(tmp_path / "cell", told), lines)
    run = server.run()
    assert run.records == lines
    assert (run.id, run.name, run.group) == ("pong_seed0-1234", "pong_seed0", "norms")
    assert unwrapped(run.config)["choices"] == CONFIG["choices"]
    assert (run.exit_code, told) == (0, [])


def test_a_key_in_netrc_counts(tmp_path, told, server, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY")
    host = server.url.removeprefix("http://")
    netrc = tmp_path / "home" / ".netrc"
    netrc.write_text(f"machine {host}\n  login user\n  password {'0123456789' * 4}\n")
    netrc.chmod(0o600)
    mirror(mirrored(tmp_path / "cell", told), records(3))
    assert server.run().records == records(3)


@pytest.mark.parametrize("kept", [4, 6, 10], ids=["behind", "inside", "at the end"])
def test_a_continued_online_run_has_each_record_once(tmp_path, told, server, kept):
    """The checkpoint is older than the last record sent, or just as old."""
    mirror(mirrored(tmp_path / "cell", told), records(10), exit_code=1)
    continued = mirrored(tmp_path / "cell", told, attempt=2, kept=records(kept))
    mirror(continued, records(16, begin=kept))
    assert server.run().records == records(16)
    assert server.run().exit_code == 0


def test_a_continued_online_run_sends_what_a_killed_client_never_did(tmp_path, told, server):
    mirror(mirrored(tmp_path / "cell", told), records(5), exit_code=1)
    continued = mirrored(tmp_path / "cell", told, attempt=2, kept=records(12))
    mirror(continued, records(16, begin=12))
    assert server.run().records == records(16)


def test_a_continued_run_may_have_a_changed_config(tmp_path, told, server):
    mirror(mirrored(tmp_path / "cell", told), records(2))
    longer = {**CONFIG, "budget": {"steps": 9}}
    mirror(mirrored(tmp_path / "cell", told, attempt=2, config=longer, kept=records(2)), [])
    config = unwrapped(server.run().config)
    assert config["budget"] == {"steps": 9}
    assert config["run"]["attempt"] == 2
    assert told == []


def test_a_refused_key_is_one_warning_and_an_offline_record(tmp_path, told, server):
    server.refuse_all_with = 401
    mirror(mirrored(tmp_path / "cell", told), records(8))
    (segment,) = offline_runs(tmp_path / "cell")
    assert segment.records == records(8)
    assert len(told.warnings) == len(told) == 1


def test_a_malformed_key_is_one_warning_and_an_offline_record(tmp_path, told, server, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "short")
    mirror(mirrored(tmp_path / "cell", told), records(8))
    (segment,) = offline_runs(tmp_path / "cell")
    assert segment.records == records(8)
    assert len(told.warnings) == len(told) == 1


def test_no_server_from_the_start_is_one_warning_and_an_offline_record(tmp_path, told, server):
    server.die()
    begin = time.monotonic()
    mirror(mirrored(tmp_path / "cell", told), records(8), init_timeout_seconds=2.0)
    assert time.monotonic() - begin < 12
    (segment,) = offline_runs(tmp_path / "cell")
    assert segment.records == records(8)
    assert len(told.warnings) == len(told) == 1


def test_a_full_quota_is_one_warning(tmp_path, told, server):
    server.refuse_records_with = 403
    mirror(mirrored(tmp_path / "cell", told), records(8), finish_timeout_seconds=3.0)
    assert len(told.warnings) == len(told) == 1
    assert "wandb sync" in told[0]


DYING_SERVER = """
import sys, time
from pathlib import Path
from tests.tracking.runs import Told, mirrored, records
from tests.tracking.wandb_server import WandbServer
from sdqn_lab.tracking.wandb import WandB
import os

server = WandbServer().__enter__()
os.environ |= {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": "0123456789" * 4}
told = Told()
run = mirrored(Path(sys.argv[1]), told)
tracker = WandB(run, init_timeout_seconds=10.0, finish_timeout_seconds=2.0)
while not server.runs:
    time.sleep(0.05)
server.die()
slowest = 0.0
for line in records(2000):
    begin = time.perf_counter()
    tracker.log(line)
    slowest = max(slowest, time.perf_counter() - begin)
assert slowest < 0.5, slowest
begin = time.monotonic()
tracker.finish(0)
assert time.monotonic() - begin < tracker._patience_seconds + 3  # and some for cleaning up
assert len(told) == 1 and "wandb sync" in told[0], told
print("finished")
"""


def test_a_server_that_dies_holds_up_neither_log_nor_finish_nor_the_process(tmp_path, pytestconfig):
    command = [sys.executable, "-c", DYING_SERVER, str(tmp_path / "cell")]
    done = subprocess.run(
        command, cwd=pytestconfig.rootpath, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "finished\n", "")


def test_a_preempted_job_says_so_though_the_scheduler_signals_the_client_too(
    tmp_path, told, server
):
    tracker = WandB(mirrored(tmp_path / "cell", told))
    while not server.runs:
        time.sleep(0.02)
    for child in psutil.Process().children():
        child.send_signal(signal.SIGUSR2)
    for line in records(4):
        tracker.log(line)
    tracker.finish(143)
    assert server.run().records == records(4)
    assert (server.run().exit_code, server.run().preempting) == (143, True)
    assert told == []


def test_a_client_that_is_killed_is_one_warning(tmp_path, told, server, capfd):
    tracker = WandB(mirrored(tmp_path / "cell", told))
    while not server.runs:
        time.sleep(0.02)
    for child in psutil.Process().children():
        child.kill()
    for line in records(4):
        tracker.log(line)
    tracker.finish(0)
    assert len(told.warnings) == len(told) == 1


def test_the_client_is_not_imported_before_a_run_uses_it(pytestconfig):
    code = "import sys, sdqn_lab.tracking.wandb; sys.exit('wandb' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=pytestconfig.rootpath, check=True)
