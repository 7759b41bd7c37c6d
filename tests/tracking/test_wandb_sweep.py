"""The files for `wandb sweep`: what the client's agent makes of them, and what our runs do."""

import os
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from wandb import wandb_agent
from wandb.sdk.launch.sweeps.utils import load_sweep_config

from sdqn_lab import config
from sdqn_lab.checks.refused import ConfigError
from sdqn_lab.runs.directory import RunDirectory
from sdqn_lab.runs.metrics import read_metrics
from sdqn_lab.tracking.sync import sync_run
from tests.tracking.runs import CONFIG, TINY, attempt, delivered_all, records, wait_until
from tests.tracking.wandb_file import offline_runs
from tests.tracking.wandb_server import ServedRun

FILES = sorted((Path(__file__).resolve().parents[2] / "sweeps" / "wandb").glob("*.yaml"))


@pytest.fixture(autouse=True)
def _agents_environment(no_account, tmp_path, monkeypatch):
    """What an agent sets in its own environment and hands on is gone after the test."""
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep1")
    monkeypatch.setenv("WANDB_RUN_ID", "")
    monkeypatch.setenv("WANDB_SWEEP_PARAM_PATH", "")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")


def drawn(parameter):
    """All values, or the ends of the range, that the server may choose."""
    if "values" in parameter:
        return parameter["values"]
    return [parameter["min"], parameter["max"]]


def choices(sweep):
    """As the server writes them for an agent: every value at least once."""
    values = {name: drawn(parameter) for name, parameter in sweep["parameters"].items()}
    for turn in range(max(map(len, values.values()))):
        yield {name: {"value": some[turn % len(some)]} for name, some in values.items()}


def agent(sweep):
    """The client's own, which does not know yet what to run."""
    made = wandb_agent.Agent(None, None, sweep_id="sweep1")
    made._sweep_command = list(sweep["command"])
    return made


def start(made, sweep, args, run_id="agent-run"):
    made._command_run({"run_id": run_id, "program": sweep["program"], "args": args})
    return made._run_processes[run_id]


@pytest.fixture
def commands(monkeypatch):
    """What an agent would have started."""
    started = []

    def note(command, **_):
        started.append(command)
        return type("Process", (), {})()

    monkeypatch.setattr(wandb_agent, "AgentProcess", note)
    return started


@pytest.mark.parametrize("file", FILES, ids=[file.stem for file in FILES])
def test_every_value_that_an_agent_may_choose_composes_and_means_what_the_file_says(file, commands):
    sweep = load_sweep_config(str(file))
    for args in choices(sweep):
        start(agent(sweep), sweep, args)
        env, python, flag, module, *overrides = commands.pop()
        assert (env, python, flag, module) == ("/usr/bin/env", "python", "-m", "sdqn_lab.run")
        cfg = config.compose(overrides)
        for key, item in args.items():
            found = cfg.choices[key] if key in config.GROUPS else OmegaConf.select(cfg, key)
            assert found == (None if item["value"] == "null" else item["value"])


@pytest.mark.parametrize("file", FILES, ids=[file.stem for file in FILES])
def test_the_goal_is_a_metric_of_every_run_and_no_value_is_none(file):
    sweep = load_sweep_config(str(file))
    assert sweep["metric"] == {"name": "eval/return_mean", "goal": "maximize"}
    values = [value for parameter in sweep["parameters"].values() for value in drawn(parameter)]
    assert None not in values
    with pytest.raises(ConfigError):
        config.compose([f"algo.max_grad_norm={None}"])


def test_a_run_that_an_agent_starts_is_the_run_that_the_agent_names(tmp_path, server):
    """As on the server: the run is there, with its choices, before the command begins."""
    (file,) = (file for file in FILES if file.stem == "norms")
    sweep = load_sweep_config(str(file))
    sweep["command"] = [*sweep["command"][:4], *TINY, sweep["command"][-1]]
    args = {"norm": {"value": "none"}, "neuron": {"value": "if"}, "seed": {"value": 2}}
    server.runs["agent-run"] = ServedRun("agent-run", config=args)
    assert start(agent(sweep), sweep, args).wait(240) == 0
    (cell,) = (tmp_path / "outputs").iterdir()
    wait_until(lambda: delivered_all(RunDirectory(cell)))
    run = server.run()
    assert run.records == read_metrics(cell / "metrics.jsonl")
    assert any(sweep["metric"]["name"] in record for record in run.records)
    assert (run.id, run.sweep, run.exit_code) == ("agent-run", "sweep1", 0)
    assert run.config["norm"]["value"] == "none"
    assert run.config["choices"]["value"]["norm"] == "none"
    assert run.config["time_window"]["value"] == 2


def under_an_agent(monkeypatch, tmp_path):
    """The environment of a command whose sweep chose a norm."""
    monkeypatch.setenv("WANDB_RUN_ID", "agent-run")
    monkeypatch.setenv("WANDB_PROJECT", "of the agent")
    chosen = tmp_path / "chosen.yaml"
    chosen.write_text("wandb_version: 1\n\nnorm:\n  value: popnorm\n")
    monkeypatch.setenv("WANDB_SWEEP_PARAM_PATH", str(chosen))


def without_agent(monkeypatch):
    for name in ("RUN_ID", "SWEEP_ID", "SWEEP_PARAM_PATH", "PROJECT"):
        monkeypatch.delenv(f"WANDB_{name}")


def test_offline_too_a_run_belongs_to_its_sweep(directory, shown, tmp_path, monkeypatch):
    under_an_agent(monkeypatch, tmp_path)
    attempt(directory, shown, 3, mode="offline", project="its own")
    (segment,) = offline_runs(directory.path)
    found = (segment.run.run_id, segment.run.sweep_id, segment.run.project)
    assert found == ("agent-run", "sweep1", "of the agent")
    assert (segment.records, shown) == (records(3), [])


def test_a_run_of_a_sweep_that_goes_on_without_the_agent_stays_that_run(
    directory, shown, tmp_path, monkeypatch, server
):
    under_an_agent(monkeypatch, tmp_path)
    attempt(directory, shown, 4, "preempted")
    without_agent(monkeypatch)
    attempt(directory, shown, 6)
    run = server.run()
    assert (run.id, run.sweep, run.project) == ("agent-run", "sweep1", "of the agent")
    assert (run.records, run.config["norm"]["value"]) == (records(6), "popnorm")


def test_a_synced_run_of_a_sweep_keeps_id_sweep_and_the_sweeps_values(
    directory, shown, tmp_path, monkeypatch, server
):
    under_an_agent(monkeypatch, tmp_path)
    attempt(directory, shown, 4, mode="offline", project="its own")
    without_agent(monkeypatch)
    assert sync_run(directory, shown.append) == (4, 0)
    run = server.run()
    assert (run.id, run.sweep, run.project) == ("agent-run", "sweep1", "of the agent")
    assert run.config["norm"]["value"] == "popnorm"
    assert run.config["choices"]["value"] == CONFIG["choices"]


def test_a_sync_from_a_machine_that_sees_another_path_does_not_part_run_and_sweep(
    directory, shown, tmp_path, monkeypatch, server
):
    """The second attempt's own id is the first one's; in between it was another."""
    under_an_agent(monkeypatch, tmp_path)
    attempt(directory, shown, 4, "preempted", mode="offline")
    without_agent(monkeypatch)
    (tmp_path / "elsewhere").symlink_to(tmp_path)
    sync_run(
        RunDirectory(tmp_path / "elsewhere" / directory.path.relative_to(tmp_path)), shown.append
    )
    attempt(directory, shown, 6)
    assert (server.run().id, server.run().records) == ("agent-run", records(6))
