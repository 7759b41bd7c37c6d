"""When a run probes its network, what it writes, and that learning never notices."""

import json
from pathlib import Path
from typing import Any

import pytest
from omegaconf import read_write

from sdqn_lab.analysis.energy import cost
from sdqn_lab.runs.directory import RunDirectory
from sdqn_lab.runs.metrics import read_metrics
from sdqn_lab.training import trainer as loop
from tests.cells import run
from tests.training.toys import toy_config, toy_trainer

pytestmark = pytest.mark.xdist_group("probe")
OVERRIDES = ["budget.steps=300", "algo.iteration_steps=100", "budget.log_every_steps=50"]
CELL = [
    *("env=minatar_breakout", "tracker=none", "threads=1", "time_window=2", "budget.steps=900"),
    *("algo.iteration_steps=300", "budget.log_every_steps=100", "algo.replay_start_steps=100"),
    *("algo.replay_capacity_steps=600", "protocol.eval_episodes=2"),
    *("norm=batchnorm", "encoder=poisson", "algo.learn_every_steps=8"),
    "protocol.episode_cap_frames=200",
]


def cell(path: Path, *overrides: str) -> RunDirectory:
    assert run([*CELL, *overrides], path) == 0
    return RunDirectory(path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> RunDirectory:
    return cell(tmp_path_factory.mktemp("whole"))


def test_each_iteration_ends_with_evaluation_then_probe_then_save():
    events: list[Any] = []
    trainer, tape = toy_trainer(
        toy_config(*OVERRIDES),
        save=lambda trainer: events.append(("save", trainer.counters.steps)),
        probed=lambda step, seen: events.append(("probe", step, len(tape.evaluations()))),
    )
    trainer.run()
    iterations = [(100, 1), (200, 2), (300, 3)]
    assert events == [
        event for step, played in iterations for event in (("probe", step, played), ("save", step))
    ]


def test_a_probe_is_of_one_batch_at_the_time_window_of_training():
    probes: list[Any] = []
    cfg = toy_config(*OVERRIDES, "time_window_eval=9")
    trainer, _ = toy_trainer(cfg, probed=lambda step, seen: probes.append(seen))
    trainer.run()
    assert {(seen.samples, seen.time_window) for seen in probes} == {(cfg.algo.batch_size, 4)}


def test_no_probe_is_taken_while_replay_holds_no_batch():
    steps: list[int] = []
    cfg = toy_config("budget.steps=80", "algo.iteration_steps=16", "budget.log_every_steps=16")
    trainer, tape = toy_trainer(cfg, probed=lambda step, seen: steps.append(step))
    trainer.run()
    played = [record["step"] for record in tape.records if "eval/return_mean" in record]
    assert played == [16, 32, 48, 64, 80]
    assert steps
    assert steps == [step for step in played if step > cfg.algo.batch_size]


@pytest.mark.parametrize(
    ("overrides", "encoder"),
    [("norm=popnorm", "Poisson"), ("norm=batchnorm", "Direct"), ("neuron=relu", "Direct")],
)
def test_probing_leaves_no_trace_in_training(overrides, encoder, monkeypatch):
    def numbers():
        cfg = toy_config(*OVERRIDES, overrides)
        with read_write(cfg):
            cfg.encoder._target_ = f"sdqn_lab.spiking.encoder.{encoder}"
        trainer, tape = toy_trainer(cfg)
        trainer.run()
        weights = trainer.agent.network.state_dict()
        return tape.records, {name: value.tolist() for name, value in weights.items()}

    probed = numbers()
    monkeypatch.setattr(loop.Trainer, "_probe", lambda trainer: None)
    assert probed == numbers()


def test_the_run_directory_holds_the_last_probe_and_energy_reads_it(whole):
    seen = json.loads(whole.probe.read_text())
    last = read_metrics(whole.metrics)[-1]["step"]
    assert (seen["version"], seen["step"], seen["time_window"]) == (1, last, 2)
    assert [layer["name"] for layer in seen["layers"]] == ["conv1", "hidden", "head"]
    assert cost(seen).parameters == (4 * 9 + 1 + 2) * 16 + (1024 + 1) * 128 + 128 * 6


def test_equal_seeds_leave_equal_probes_also_when_the_run_was_resumed(whole, tmp_path):
    expected = whole.probe.read_bytes()
    first = cell(tmp_path, "budget.steps=600", "keep_state=true").probe.read_bytes()
    assert first != expected
    assert cell(tmp_path, "keep_state=true").probe.read_bytes() == expected
