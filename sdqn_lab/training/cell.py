"""One cell from its config to its finished run directory, begun or continued."""

import json
import time
import traceback
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from safetensors.torch import save
from torch import nn

from sdqn_lab import build
from sdqn_lab.agents.base import Agent
from sdqn_lab.agents.seeding import stream_seed
from sdqn_lab.config import resume_command
from sdqn_lab.envs.base import VectorEnv
from sdqn_lab.networks.fingerprint import fingerprint
from sdqn_lab.networks.network import SpikingNetwork
from sdqn_lab.networks.probe import Probe
from sdqn_lab.runs import provenance
from sdqn_lab.runs.directory import PROBE_VERSION, RunDirectory
from sdqn_lab.runs.files import write_atomic, write_json
from sdqn_lab.runs.metrics import MetricsFile
from sdqn_lab.runs.stopping import PREEMPTED_EXIT, StopFlag
from sdqn_lab.tracking.follow import Follower
from sdqn_lab.tracking.progress import RunProgress
from sdqn_lab.tracking.recorder import RunRecorder
from sdqn_lab.tracking.tracker import NoTracker
from sdqn_lab.training.checkpoint import Checkpoint
from sdqn_lab.training.health import cures, dead_line, first_observations, probe
from sdqn_lab.training.trainer import Settings, StopRequested, Trainer


def run_cell(cfg: DictConfig, directory: RunDirectory, console: Console) -> int:
    """Train one cell to its end, from its checkpoint if it has one.

    Args:
        cfg: a validated config.
        directory: the cell's own; made if need be.
        console: where progress is shown.

    Returns:
        0 finished, 1 failed (its traceback is in ``status.json``), 143 stopped by a signal: saved,
        or finished just before.

    Raises:
        BusyError: another process works on the run.
    """
    directory.path.mkdir(parents=True, exist_ok=True)
    with directory.lock(), ExitStack() as ended:
        return _run_locked(cfg, directory, console, ended)


def _run_locked(
    cfg: DictConfig, directory: RunDirectory, console: Console, ended: ExitStack
) -> int:
    """``ended``: what is done when ``status.json`` says how the attempt ended."""
    name = directory.path.name
    checkpoint, stop = Checkpoint(directory.checkpoint), StopFlag()
    directory.update(state="pending", cell=name)
    write_atomic(directory.config, OmegaConf.to_yaml(cfg).encode())
    try:
        facts = checkpoint.read()
        # Sums depend on the number of threads: a run keeps the one it began with.
        threads = facts.get("threads", build.resolve_threads(cfg.threads))
        directory.begin_attempt(threads=threads, **_provenance(directory))
        torch.set_num_threads(threads)
        with stop.listening():
            _train(cfg, directory, console, checkpoint, facts, stop, ended)
    except StopRequested:
        directory.end_attempt("preempted")
        console.print(f"{name}: stopped, state saved; continue with")
        console.print(f"  {resume_command(directory.path, cfg)}", soft_wrap=True)
        return PREEMPTED_EXIT
    except RefusedError as refused:
        directory.end_attempt("failed", error=str(refused))
        console.print(f"refused: {refused}", soft_wrap=True, markup=False)
        return 1
    except Exception as error:
        directory.end_attempt("failed", error=traceback.format_exc())
        line = f"{name}: failed: {type(error).__name__}: {error}"
        console.print(line, soft_wrap=True, markup=False)
        return 1
    directory.end_attempt("finished")
    if not cfg.keep_state:
        checkpoint.drop()
    # A signal that came too late for this run still means whoever runs several.
    return PREEMPTED_EXIT if stop.requested else 0


def _provenance(directory: RunDirectory) -> dict[str, Any]:
    """Code, libraries and hardware of this attempt; changes to the code are kept beside it."""
    changes = directory.path / "code.diff"
    changes.unlink(missing_ok=True)
    if text := provenance.diff():
        write_atomic(changes, f"{text}\n".encode())
    return {**provenance.code(), **provenance.machine(), **provenance.scheduler()}


def _train(
    cfg: DictConfig,
    directory: RunDirectory,
    console: Console,
    checkpoint: Checkpoint,
    facts: dict[str, Any],
    stop: StopFlag,
    ended: ExitStack,
) -> None:
    with ExitStack() as stack:
        train_env = build.build_env(cfg, cfg.algo.num_envs)
        stack.callback(train_env.close)
        eval_env = build.build_env(cfg, cfg.protocol.eval_episodes)
        stack.callback(eval_env.close)
        agent = build.build_agent(cfg, build.env_spec(train_env))
        if not facts:
            _check_health(cfg, agent, train_env, directory, console)
        known = facts.get("offset", 0), facts.get("metrics_sha256")
        metrics = stack.enter_context(MetricsFile(directory.metrics, *known))
        done, wall = facts.get("steps", 0), facts.get("wall_seconds", 0.0)
        progress = RunProgress(directory.path.name, cfg.budget.steps, done, console)
        stack.enter_context(progress)
        recorder = RunRecorder(metrics, progress, wall_seconds=wall, steps=done)
        if not issubclass(get_class(cfg.tracker._target_), NoTracker):
            follower = Follower(directory, cfg.tracker._target_, progress.say)
            recorder.recorded = follower.news
            ended.callback(follower.finish)
        ends = network_ends(train_env.observation_shape, train_env.num_actions)
        saver = _Saver(cfg, directory, checkpoint, metrics, recorder, ends)
        trainer = Trainer(
            Settings.of(cfg),
            agent,
            train_env,
            eval_env,
            recorder,
            save=saver.save,
            probed=partial(_write_probe, directory),
            save_due=saver.due,
            stop_requested=stop,
        )
        if agent.memory is not None:
            progress.say(f"{directory.path.name}: {agent.memory}")
        if facts:
            if agent.memory is not None:
                checkpoint.load_memory(agent.memory)
            trainer.load_state_dict(checkpoint.load_state())
        trainer.run()


CURES: Mapping[str, dict[str, dict[str, Any]]] = {
    "surrogate=atan": {"surrogate": {"_target_": "sdqn_lab.spiking.surrogate.Atan", "alpha": 2.0}},
    "neuron.v_threshold=0.5": {"neuron": {"v_threshold": 0.5}},
    "network.normalize_hidden=true": {"network": {"normalize_hidden": True}},
    "norm=popnorm": {"norm": {"_target_": "sdqn_lab.spiking.norm.PopNorm"}},
}
"""Changes that are tried on a dead network, each alone."""


class RefusedError(Exception):
    """The health check's verdict under ``health=refuse``."""


def _check_health(
    cfg: DictConfig, agent: Agent, env: VectorEnv, directory: RunDirectory, console: Console
) -> None:
    """Probe the network on real first observations; what is found is recorded in ``health.json``.

    Raises:
        RefusedError: the network is dead and the config asks to refuse it.
    """
    if cfg.health == "off":
        return
    seed = stream_seed(cfg.seed, "health")
    observations = first_observations(env, seed)
    by_gradient = agent.learns_by_gradient
    health = probe(agent.network, observations, seed, by_gradient=by_gradient)
    found = health.record()
    for line in health.lines():
        console.print(f"{directory.path.name}: {line}", soft_wrap=True, markup=False)
    if health.dead:
        candidates = {
            change: partial(_changed_network, cfg, env, delta)
            for change, delta in CURES.items()
            if _differs(cfg, delta)
        }
        found["cures"] = cures(candidates, observations, by_gradient=by_gradient)
    write_json(directory.path / "health.json", found)
    if not health.dead:
        return
    axes = " ".join(f"{axis}={cfg.choices[axis]}" for axis in ("neuron", "surrogate", "norm"))
    line = dead_line(directory.path.name, axes, found["cures"], by_gradient=by_gradient)
    if cfg.health == "refuse":
        raise RefusedError(line)
    console.print(f"WARNING {line}", style="bold red", soft_wrap=True, markup=False)


def _changed_network(cfg: DictConfig, env: VectorEnv, delta: dict[str, Any]) -> SpikingNetwork:
    changed = OmegaConf.merge(OmegaConf.create(OmegaConf.to_container(cfg)), delta)
    assert isinstance(changed, DictConfig)
    return build.initial_network(changed, build.env_spec(env))


def _differs(cfg: DictConfig, delta: dict[str, Any]) -> bool:
    """Whether a change concerns keys that this cell has, and would change them."""
    ((group, keys),) = delta.items()
    if "_target_" in keys:
        return bool(cfg[group]._target_ != keys["_target_"])
    return all(key in cfg[group] and cfg[group][key] != value for key, value in keys.items())


def _write_probe(directory: RunDirectory, step: int, seen: Probe) -> None:
    write_json(directory.probe, {"version": PROBE_VERSION, "step": step, **asdict(seen)})


class _Saver:
    """Decides when a checkpoint is due and puts everything into it."""

    def __init__(
        self,
        cfg: DictConfig,
        directory: RunDirectory,
        checkpoint: Checkpoint,
        metrics: MetricsFile,
        recorder: RunRecorder,
        ends: dict[str, Any],
    ) -> None:
        self._directory, self._checkpoint = directory, checkpoint
        self._metrics, self._recorder, self._ends = metrics, recorder, ends
        self._period: float = 60.0 * cfg.checkpoint_every_minutes
        self._last = time.monotonic()

    def due(self) -> bool:
        return time.monotonic() - self._last > self._period

    def save(self, trainer: Trainer) -> None:
        begin = time.monotonic()
        self._metrics.sync()
        facts = {
            "steps": trainer.counters.steps,
            "offset": self._metrics.offset,
            "metrics_sha256": self._metrics.sha256,
            "wall_seconds": self._recorder.wall_seconds,
            "threads": torch.get_num_threads(),
        }
        # Networks first: a crash in between repeats the evaluation and writes them again.
        self._save_networks(trainer)
        self._checkpoint.save(trainer.state_dict(), trainer.agent.memory, facts)
        self._last = time.monotonic()
        self._recorder.checkpoint_seconds += self._last - begin

    def _save_networks(self, trainer: Trainer) -> None:
        network, folder = trainer.agent.network, self._directory.path
        save_network(network, folder / "network_last.safetensors", self._ends)
        if trainer.counters.best_steps == trainer.counters.steps:
            save_network(network, folder / "network_best.safetensors", self._ends)


def network_ends(observation_shape: tuple[int, ...], num_actions: int) -> dict[str, Any]:
    """What a network's file says of its ends, so that it can be built without an environment."""
    return {"observation_shape": observation_shape, "num_actions": num_actions}


def save_network(network: nn.Module, path: Path, ends: dict[str, Any]) -> None:
    """Weights as safetensors with a checksum, atomically; they load without pickle."""
    tensors = {key: value.cpu() for key, value in network.state_dict().items()}
    # One entry: the order of several would differ from file to file.
    told = json.dumps({**ends, "sha256": fingerprint(tensors, ends)})
    write_atomic(path, save(tensors, metadata={"ends": told}))
