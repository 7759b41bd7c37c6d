"""A run can die at any instant and be resumed to exactly the metrics of the run that never died."""

import json
import mmap
import multiprocessing
import os
import random
import signal
import time
from contextlib import suppress
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from sdqn_lab import config
from sdqn_lab.runs.directory import BusyError, RunDirectory
from sdqn_lab.runs.files import write_atomic
from sdqn_lab.runs.metrics import MetricsFile
from sdqn_lab.training import checkpoint, evaluation
from sdqn_lab.training import trainer as loop
from sdqn_lab.training.cell import PREEMPTED_EXIT, run_cell

fork = multiprocessing.get_context("fork")
PHASES = ("acting", "learning", "evaluating", "checkpointing")
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
    *("env=breakout", "protocol.sticky_actions=0.25", "algo.num_envs=3", "budget.steps=900"),
    *("network.channels=[4,4,4]", "network.hidden=16", "budget.log_every_steps=100"),
    *("algo.iteration_steps=300", "algo.replay_start_steps=60", "algo.replay_capacity_steps=500"),
    *("algo.epsilon_decay_steps=500", "protocol.eval_episodes=2"),
    *("protocol.episode_cap_frames=300",),
]


def run(words: list[str], path: Path) -> int:
    return run_cell(config.compose(words), RunDirectory(path), Console(file=StringIO()))


def numbers(path: Path) -> list[dict]:
    """The records without what depends on clock or machine."""
    clocks = ("wall", "seconds", "per_second")
    lines = (path / "metrics.jsonl").read_text().splitlines()
    return [
        {
            key: value
            for key, value in json.loads(line).items()
            if not key.startswith("time/") and not any(word in key for word in clocks)
        }
        for line in lines
    ]


class Phase:
    """Which phase the child is in, seen by the parent through shared memory."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 1)

    def wrap(self, owner: object, name: str, phase: str) -> None:
        inner = getattr(owner, name)

        def outer(*args, **kwargs):
            before, self._memory[0] = self._memory[0], PHASES.index(phase) + 1
            try:
                return inner(*args, **kwargs)
            finally:
                self._memory[0] = before

        setattr(owner, name, outer)

    def watch(self) -> None:
        self.wrap(loop.Trainer, "_act", "acting")
        self.wrap(loop.Trainer, "_learn", "learning")
        self.wrap(loop, "evaluate", "evaluating")
        self.wrap(checkpoint.Checkpoint, "save", "checkpointing")

    def wait(self, phase: str, child) -> bool:
        wanted = PHASES.index(phase) + 1
        while child.is_alive():
            if self._memory[0] == wanted:
                return True
        return False


def terminate_after_the_last(monkeypatch, method: str) -> None:
    """Send SIGTERM behind the trainer's method once the budget's steps are taken."""
    inner = getattr(loop.Trainer, method)

    def outer(trainer):
        inner(trainer)
        if trainer.counters.steps >= trainer.settings.steps:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(loop.Trainer, method, outer)


def begin(words: list[str], path: Path, phase: Phase):
    def child() -> None:
        phase.watch()
        os._exit(run(words, path))

    process = fork.Process(target=child)
    process.start()
    return process


def kill_in(phase_name: str, rng: random.Random, words: list[str], path: Path) -> bool:
    """Kill -9 at a random instant of the phase; False where the run ended before."""
    phase = Phase()
    process = begin(words, path, phase)
    time.sleep(0.15 + rng.uniform(0, 0.5))
    caught = phase.wait(phase_name, process)
    time.sleep(rng.uniform(0, 0.002))
    with suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGKILL)
    process.join()
    return caught and process.exitcode == -signal.SIGKILL


@pytest.mark.parametrize(
    ("words", "kills_a_phase"), [(MINATAR, 5), (ATARI, 2)], ids=["minatar", "atari"]
)
def test_killed_at_any_instant_a_run_resumes_to_the_same_metrics(words, kills_a_phase, tmp_path):
    undisturbed, folder, rounds = tmp_path / "undisturbed", tmp_path / "killed", 0
    assert run(words, undisturbed) == 0
    rng, done = random.Random(0), dict.fromkeys(PHASES, 0)
    while min(done.values()) < kills_a_phase:
        if RunDirectory(folder).state == "finished":
            assert numbers(folder) == numbers(undisturbed)
            folder, rounds = tmp_path / f"killed{rounds}", rounds + 1
        phase = min(PHASES, key=lambda name: done[name])
        done[phase] += kill_in(phase, rng, words, folder)
    assert run(words, folder) == 0
    assert numbers(folder) == numbers(undisturbed)


def test_two_runs_of_one_cell_are_equal_and_another_seed_differs(tmp_path):
    for name in ("one", "two"):
        assert run(MINATAR, tmp_path / name) == 0
    assert run([*MINATAR, "seed=1"], tmp_path / "other") == 0
    assert numbers(tmp_path / "one") == numbers(tmp_path / "two")
    assert numbers(tmp_path / "one") != numbers(tmp_path / "other")
    weights = [(tmp_path / n / "network_last.safetensors").read_bytes() for n in ("one", "two")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("encoder", ["poisson"])
@pytest.mark.parametrize("norm", ["batchnorm"])
def test_a_stop_request_saves_and_the_run_goes_on_exactly(encoder, norm, tmp_path, monkeypatch):
    words = [*MINATAR, f"encoder={encoder}", f"norm={norm}", "checkpoint_every_minutes=60"]
    assert run(words, tmp_path / "whole") == 0
    stopped = tmp_path / "stopped"
    act, calls = loop.Trainer._act, []

    def act_and_interrupt(trainer):
        calls.append(1)
        if len(calls) in (40, 200):
            os.kill(os.getpid(), signal.SIGUSR2)
        act(trainer)

    monkeypatch.setattr(loop.Trainer, "_act", act_and_interrupt)
    assert run(words, stopped) == PREEMPTED_EXIT
    assert RunDirectory(stopped).state == "preempted"
    assert run(words, stopped) == PREEMPTED_EXIT
    assert run(words, stopped) == 0
    assert numbers(stopped) == numbers(tmp_path / "whole")
    assert len(RunDirectory(stopped).status()["attempts"]) == 3


def test_a_stop_request_in_an_evaluation_is_heard_and_the_evaluation_repeated(
    tmp_path, monkeypatch
):
    assert run(MINATAR, tmp_path / "whole") == 0
    played, stopped = evaluation.evaluate, tmp_path / "stopped"

    def interrupted(*args, **kwargs):
        monkeypatch.setattr(loop, "evaluate", played)
        os.kill(os.getpid(), signal.SIGTERM)
        return played(*args, **kwargs)

    monkeypatch.setattr(loop, "evaluate", interrupted)
    assert run(MINATAR, stopped) == PREEMPTED_EXIT
    assert run(MINATAR, stopped) == 0
    assert numbers(stopped) == numbers(tmp_path / "whole")


def test_a_stop_at_the_very_last_step_still_leaves_its_evaluation_to_come(tmp_path, monkeypatch):
    assert run(MINATAR, tmp_path / "whole") == 0
    stopped = tmp_path / "stopped"
    terminate_after_the_last(monkeypatch, "_act")
    assert run(MINATAR, stopped) == PREEMPTED_EXIT
    assert run(MINATAR, stopped) == 0
    assert numbers(stopped) == numbers(tmp_path / "whole")


def test_a_finished_run_keeps_networks_and_drops_its_state(tmp_path):
    assert run(MINATAR, tmp_path) == 0
    assert (tmp_path / "network_last.safetensors").exists()
    assert (tmp_path / "network_best.safetensors").exists()
    assert not (tmp_path / "checkpoint").exists()


def test_a_run_that_kept_its_state_can_be_extended(tmp_path):
    assert run([*MINATAR, "keep_state=true", "budget.steps=2000"], tmp_path / "short") == 0
    assert run([*MINATAR, "keep_state=true"], tmp_path / "short") == 0
    assert run(MINATAR, tmp_path / "whole") == 0
    assert numbers(tmp_path / "short") == numbers(tmp_path / "whole")


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


def test_a_crash_between_networks_and_checkpoint_loses_neither(tmp_path, monkeypatch):
    """The last save dies half way; the resumed run still ends with its networks."""
    crashed, save = tmp_path / "crashed", checkpoint.Checkpoint.save
    assert run(MINATAR, tmp_path / "whole") == 0

    def child() -> None:
        def dying(self, state, memory, facts):
            if facts["steps"] >= 3000:
                os._exit(9)
            save(self, state, memory, facts)

        monkeypatch.setattr(checkpoint.Checkpoint, "save", dying)
        os._exit(run(MINATAR, crashed))

    process = fork.Process(target=child)
    process.start()
    process.join()
    assert process.exitcode == 9
    assert run(MINATAR, crashed) == 0
    for name in ("network_last.safetensors", "network_best.safetensors"):
        assert (crashed / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_two_processes_never_work_on_one_run(tmp_path):
    directory = RunDirectory(tmp_path)
    with directory.lock(), pytest.raises(BusyError, match="another process works on it"):
        run(MINATAR, tmp_path)
    assert directory.status() == {}
    assert run(MINATAR, tmp_path) == 0


def test_a_signal_that_comes_too_late_still_stops_whoever_runs_several(tmp_path, monkeypatch):
    terminate_after_the_last(monkeypatch, "_evaluate")
    assert run(MINATAR, tmp_path) == PREEMPTED_EXIT
    assert RunDirectory(tmp_path).state == "finished"
    assert not (tmp_path / "checkpoint").exists()
