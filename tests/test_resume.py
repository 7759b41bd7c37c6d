"""A run can die at any instant and be resumed to exactly the metrics of the run that never died."""

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch

from sdqn_lab.checks.refused import ConfigError
from sdqn_lab.runs import stopping
from sdqn_lab.runs.directory import BusyError, RunDirectory
from sdqn_lab.runs.files import write_atomic
from sdqn_lab.runs.metrics import MetricsFile, reproducible
from sdqn_lab.runs.stopping import PREEMPTED_EXIT
from sdqn_lab.training import evaluation
from sdqn_lab.training import trainer as loop
from sdqn_lab.training.collector import Collector
from sdqn_lab.training.resume import resumed
from tests.cells import kill_at, numbers, run

# Several compare with the same undisturbed run, which is made once.
pytestmark = pytest.mark.xdist_group("resume")
COMMON = ["tracker=none", "threads=1", "time_window=2", "checkpoint_every_minutes=0.002"]
MINATAR = [
    *COMMON,
    *("env=minatar_breakout", "budget.steps=3000", "budget.log_every_steps=250"),
    *("algo.iteration_steps=1000", "algo.replay_start_steps=200", "algo.learn_every_steps=8"),
    *(
        "algo.replay_capacity_steps=1600",
        "algo.epsilon_decay_steps=1500",
        "protocol.eval_episodes=3",
    ),
]
ATARI = [
    *COMMON,
    *("env=breakout", "protocol.sticky_actions=0.25", "algo.num_envs=3", "budget.steps=600"),
    *("network.channels=[4,4,4]", "network.hidden=16", "budget.log_every_steps=100"),
    *("algo.iteration_steps=200", "algo.replay_start_steps=60", "algo.replay_capacity_steps=500"),
    *("algo.epsilon_decay_steps=500", "protocol.eval_episodes=2"),
    *("protocol.episode_cap_frames=300",),
]
PQN = [
    *COMMON,
    *("env=minatar_breakout", "experiment=pl_pqn", "budget.steps=3000", "algo.num_envs=6"),
    *("algo.rollout_steps=16", "algo.minibatches=3", "algo.iteration_steps=1000"),
    *("algo.epsilon_decay_steps=1500", "protocol.eval_episodes=3", "budget.log_every_steps=250"),
]
QR_DQN = [*MINATAR, "experiment=pl_qr_dqn", "algo.quantiles=8", "budget.steps=1000"]
POLICY = [
    *COMMON,
    *("env=minatar_breakout", "network.hidden=16", "budget.steps=1500", "algo.num_envs=6"),
    *("algo.iteration_steps=500", "algo.rollout_steps=16", "protocol.eval_episodes=2"),
    *("protocol.episode_cap_frames=60", "budget.log_every_steps=150"),
]
PPO = [*POLICY, "experiment=pl_ppo", "algo.minibatches=3", "algo.shared_trunk=false"]
A2C = [*POLICY, "experiment=pl_a2c"]
REINFORCE = [*POLICY, "experiment=pl_reinforce"]
NORMALIZED = [
    *COMMON,
    *("env=cartpole", "experiment=pl_ppo", "network.hidden=16", "budget.steps=1000"),
    *("env.normalize_observations=true", "env.normalize_rewards=true", "algo.num_envs=4"),
    *("algo.iteration_steps=500", "algo.rollout_steps=32", "protocol.eval_episodes=2"),
    *("encoder=population", "encoder.learned=true", "encoder.stochastic=true"),
    "readout=population",
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of `MINATAR` that nobody disturbed; not to be changed."""
    path = tmp_path_factory.mktemp("whole")
    torch.use_deterministic_algorithms(True)
    assert run(MINATAR, path) == 0
    return path


def test_a_run_that_another_process_has_finished_meanwhile_is_not_begun_anew(tmp_path):
    words = [*MINATAR, "budget.steps=400"]
    assert run(words, tmp_path) == 0
    before = (tmp_path / "metrics.jsonl").read_bytes(), (tmp_path / "status.json").read_bytes()
    assert run(words, tmp_path) == 0  # it was on its way here before the other's end
    after = (tmp_path / "metrics.jsonl").read_bytes(), (tmp_path / "status.json").read_bytes()
    assert after == before


def signal_at_step(monkeypatch, counts: tuple[int, ...], number: int) -> None:
    """Send this process a signal before its environments' steps of these numbers."""
    step, calls = Collector.step, []

    def outer(collector, actions):
        calls.append(1)
        if len(calls) in counts:
            os.kill(os.getpid(), number)
        return step(collector, actions)

    monkeypatch.setattr(Collector, "step", outer)


def terminate_after_the_last(monkeypatch, method: str) -> None:
    """Send SIGTERM behind the trainer's method once the budget's steps are taken."""
    inner = getattr(loop.Trainer, method)

    def outer(trainer):
        inner(trainer)
        if trainer.counters.steps >= trainer.settings.steps:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(loop.Trainer, method, outer)


KILLS = [
    *[("act", 20), ("learn", 5), ("write a file", 3), ("remove old files", 2), ("evaluate", 10)],
    *[("write the manifest", 2), ("learn", 30), ("evaluate", 3)],
]


KILLS_OF_PQN = [("act", 25), ("learn from a rollout", 8), ("write a file", 2), ("evaluate", 3)]
KILLS_OF_POLICIES = [("act", 40), ("learn a policy", 5), ("evaluate", 3)]


@pytest.mark.parametrize(
    ("overrides", "kills"),
    [
        (MINATAR, KILLS),
        # Each of these starts a process for every kill; those that are left go the same ways.
        pytest.param(ATARI, KILLS[:5], marks=pytest.mark.slow),
        pytest.param(PQN, KILLS_OF_PQN, marks=pytest.mark.slow),
        pytest.param(QR_DQN, KILLS[1:3], marks=pytest.mark.slow),
        pytest.param(PPO, KILLS_OF_POLICIES, marks=pytest.mark.slow),
        pytest.param(REINFORCE, KILLS_OF_POLICIES, marks=pytest.mark.slow),
    ],
    ids=["minatar", "atari", "pqn", "qr_dqn", "ppo", "reinforce"],
)
def test_killed_in_each_phase_a_run_resumes_to_the_same_metrics(overrides, kills, whole, tmp_path):
    undisturbed, folder = tmp_path / "undisturbed", tmp_path / "killed"
    if overrides is MINATAR:
        undisturbed = whole
    else:
        assert run(overrides, undisturbed) == 0
    for call, count in kills:
        kill_at(call, count, overrides, folder)
    assert run(overrides, folder) == 0
    assert numbers(folder) == numbers(undisturbed)


def test_two_runs_of_one_cell_are_equal_and_another_seed_differs(whole, tmp_path):
    assert run(MINATAR, tmp_path / "again") == 0
    assert run([*MINATAR, "seed=1"], tmp_path / "other") == 0
    assert numbers(tmp_path / "again") == numbers(whole)
    assert numbers(tmp_path / "other") != numbers(whole)
    weights = [
        (path / "network_last.safetensors").read_bytes() for path in (whole, tmp_path / "again")
    ]
    assert weights[0] == weights[1]


BERNOULLI = [*PQN, "neuron=bernoulli", "budget.steps=1500"]
PLASTICITY = [
    *COMMON,
    *("env=minatar_breakout", "algo=plasticity", "budget.steps=1500", "algo.num_envs=6"),
    *("algo.rule=r_max", "algo.modulator=td_error", "algo.trace_decay=0.9"),
    *("algo.threshold_learning_rate=0.01", "algo.iteration_steps=1000"),
    *("protocol.eval_episodes=3", "budget.log_every_steps=250"),
]


@pytest.mark.parametrize(
    "overrides",
    [
        PLASTICITY,
        # They are killed above, or differ in little from one that is.
        *(
            pytest.param(each, marks=pytest.mark.slow)
            for each in (PQN, REINFORCE, MINATAR, PPO, A2C, BERNOULLI)
        ),
    ],
    ids=["plasticity", "pqn", "reinforce", "dqn", "ppo", "a2c", "bernoulli"],
)
def test_a_stop_request_saves_and_the_run_goes_on_exactly(overrides, tmp_path, monkeypatch):
    # Under PQN in the middle of a rollout: after 40 and 200 of 16 rows each.
    # Plasticity trains no torso, so it takes no running statistics.
    norm = "popnorm" if overrides is PLASTICITY else "batchnorm"
    overrides = [*overrides, "encoder=poisson", f"norm={norm}", "checkpoint_every_minutes=60"]
    assert run(overrides, tmp_path / "whole") == 0
    stopped = tmp_path / "stopped"
    signal_at_step(monkeypatch, (40, 200), signal.SIGUSR2)
    assert run(overrides, stopped) == PREEMPTED_EXIT
    assert RunDirectory(stopped).state == "preempted"
    assert run(overrides, stopped) == PREEMPTED_EXIT
    assert run(overrides, stopped) == 0
    assert numbers(stopped) == numbers(tmp_path / "whole")
    assert len(RunDirectory(stopped).status()["attempts"]) == 3


def test_a_run_that_normalizes_and_learns_its_encoder_goes_on_exactly_after_two_stops(
    tmp_path, monkeypatch
):
    assert run(NORMALIZED, tmp_path / "whole") == 0
    stopped = tmp_path / "stopped"
    signal_at_step(monkeypatch, (40, 200), signal.SIGUSR2)
    assert run(NORMALIZED, stopped) == run(NORMALIZED, stopped) == PREEMPTED_EXIT
    assert run(NORMALIZED, stopped) == 0
    assert numbers(stopped) == numbers(tmp_path / "whole")
    files = [path / "network_last.safetensors" for path in (stopped, tmp_path / "whole")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_stop_request_in_an_evaluation_is_heard_and_the_evaluation_repeated(
    whole, tmp_path, monkeypatch
):
    played, stopped = evaluation.evaluate, tmp_path / "stopped"

    def interrupted(*args, **kwargs):
        monkeypatch.setattr(loop, "evaluate", played)
        os.kill(os.getpid(), signal.SIGTERM)
        return played(*args, **kwargs)

    monkeypatch.setattr(loop, "evaluate", interrupted)
    assert run(MINATAR, stopped) == PREEMPTED_EXIT
    assert run(MINATAR, stopped) == 0
    assert numbers(stopped) == numbers(whole)


def test_a_stop_at_the_very_last_step_still_leaves_its_evaluation_to_come(
    whole, tmp_path, monkeypatch
):
    terminate_after_the_last(monkeypatch, "_log_if_due")
    assert run(MINATAR, tmp_path) == PREEMPTED_EXIT
    assert run(MINATAR, tmp_path) == 0
    assert numbers(tmp_path) == numbers(whole)


def test_a_finished_run_keeps_networks_and_drops_its_state(whole):
    assert (whole / "network_last.safetensors").exists()
    assert (whole / "network_best.safetensors").exists()
    assert not (whole / "checkpoint").exists()


def test_a_run_that_kept_its_state_can_be_extended(whole, tmp_path):
    assert run([*MINATAR, "keep_state=true", "budget.steps=2000"], tmp_path) == 0
    assert run([*MINATAR, "keep_state=true"], tmp_path) == 0
    assert numbers(tmp_path) == numbers(whole)


def test_a_run_whose_learning_rate_has_fallen_to_zero_is_not_extended(tmp_path):
    assert run([*PQN, "keep_state=true", "budget.steps=700"], tmp_path) == 0
    with pytest.raises(ConfigError, match=r"algo\.learning_rate_decay_steps=700: .* is 0 from"):
        resumed(["--resume", str(tmp_path), "budget.steps=1400"])


def test_metrics_written_after_the_checkpoint_are_written_again_not_twice(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with MetricsFile(path) as metrics:
        metrics.write({"step": 1})
        known = metrics.offset
        metrics.write({"step": 2})
    with MetricsFile(path, known) as metrics:
        metrics.write({"step": 2})
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2]


def test_a_record_shorter_than_the_checkpoint_knows_is_refused(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write_atomic(path, b"{}\n")
    with pytest.raises(ValueError, match="3 bytes, the checkpoint knows 7: lines are lost"):
        MetricsFile(path, 7)


def test_a_crash_between_networks_and_checkpoint_loses_neither(whole, tmp_path):
    """The last save dies half way; the resumed run still ends with its networks."""
    overrides = [*MINATAR, "checkpoint_every_minutes=60"]
    kill_at("save", 3, overrides, tmp_path)
    assert run(overrides, tmp_path) == 0
    for name in ("network_last.safetensors", "network_best.safetensors"):
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes()


def test_two_processes_never_work_on_one_run(tmp_path):
    directory = RunDirectory(tmp_path)
    words = [*MINATAR, "budget.steps=400"]
    with directory.lock(), pytest.raises(BusyError, match="another process works on it"):
        run(words, tmp_path)
    assert directory.status() == {}
    assert run(words, tmp_path) == 0


def test_a_signal_that_comes_too_late_still_stops_a_command_of_several_runs(tmp_path, monkeypatch):
    terminate_after_the_last(monkeypatch, "_evaluate")
    assert run([*MINATAR, "budget.steps=400"], tmp_path) == PREEMPTED_EXIT
    assert RunDirectory(tmp_path).state == "finished"
    assert not (tmp_path / "checkpoint").exists()


def test_a_stop_before_the_first_record_leaves_the_steps_of_the_checkpoint(tmp_path, monkeypatch):
    signal_at_step(monkeypatch, (10,), signal.SIGTERM)
    assert run([*MINATAR, "budget.log_every_steps=2000"], tmp_path) == PREEMPTED_EXIT
    assert numbers(tmp_path) == []
    steps = RunDirectory(tmp_path).status()["steps"]
    assert steps == RunDirectory(tmp_path).saved_steps > 0


HANGING = """
import gymnasium, time
from gymnasium.envs.classic_control import CartPoleEnv


class Hanging(CartPoleEnv):
    steps = 0

    def step(self, action):
        Hanging.steps += 1
        if Hanging.steps == 300:
            open("hangs", "w").close()
            while True:
                try:
                    time.sleep(1)
                except Exception:
                    pass
        return super().step(action)


gymnasium.register("Hanging-v0", Hanging)
"""


def test_a_further_signal_ends_a_run_whose_environment_hangs_and_says_what_is_lost(tmp_path):
    (tmp_path / "hanging.py").write_text(HANGING)
    overrides = ["env=gymnasium", "env.id=hanging:Hanging-v0", "tracker=none", "threads=1"]
    overrides += ["time_window=1", "budget=smoke", "hydra.run.dir=run"]
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    process = subprocess.Popen(
        [sys.executable, "-m", "sdqn_lab.run", *overrides],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        end = time.monotonic() + 300
        while not (tmp_path / "hangs").exists() and time.monotonic() < end:
            time.sleep(0.1)
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
            process.send_signal(number)
            time.sleep(0.2)  # signals of one number that wait together are one
        said = process.communicate(timeout=120)[1]
    finally:
        process.kill()
    assert process.returncode == PREEMPTED_EXIT
    assert "step 0 is lost; continue with" in said
    assert RunDirectory(tmp_path / "run").state == "preempted"


def test_a_cell_can_run_in_a_thread_though_no_signal_reaches_it(tmp_path):
    codes = []
    overrides = [*MINATAR, "budget.steps=300", "algo.iteration_steps=300"]
    thread = threading.Thread(target=lambda: codes.append(run(overrides, tmp_path)))
    thread.start()
    thread.join(300)
    assert codes == [0]


def test_what_a_run_reproduces_is_its_record_without_the_clock():
    record = {"step": 3, "wall_seconds": 0.1, "time/steps_per_second": 9.0, "loss/td": 0.5}
    assert reproducible(record) == {"step": 3, "loss/td": 0.5}


@pytest.mark.parametrize(
    ("insist", "after_seconds", "signals_taken"),
    [(True, 0.0, 1), (True, math.inf, 2), (False, 0.0, 9)],
    ids=["later", "at once", "a launcher"],
)
def test_a_signal_sent_twice_at_once_is_one_request_and_a_later_one_insists(
    insist, after_seconds, signals_taken, monkeypatch
):
    monkeypatch.setattr(stopping, "INSIST_AFTER_SECONDS", after_seconds)
    stop = stopping.StopFlag(insist=insist)
    with stop.listening():
        for _ in range(signals_taken):
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.requested
        if insist:
            with pytest.raises(stopping.StopNow):
                os.kill(os.getpid(), signal.SIGINT)
