"""One cell from its config to its finished run directory, begun or continued."""

import json
import time
import traceback
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from safetensors.torch import save
from torch import nn

from sdqn_lab.agents.base import Agent
from sdqn_lab.agents.seeding import stream_seed
from sdqn_lab.assembly import build
from sdqn_lab.config.identity import without_torso
from sdqn_lab.envs.base import ActionSpace, VectorEnv
from sdqn_lab.envs.normalization import STORED, Normalizer, normalizer_of
from sdqn_lab.networks.fingerprint import fingerprint
from sdqn_lab.networks.probe import Probe
from sdqn_lab.runs import provenance
from sdqn_lab.runs.directory import PROBE_VERSION, RunDirectory
from sdqn_lab.runs.files import write_atomic, write_json
from sdqn_lab.runs.metrics import MetricsFile
from sdqn_lab.runs.stopping import PREEMPTED_EXIT, StopFlag, StopNow
from sdqn_lab.tracking.follow import Follower
from sdqn_lab.tracking.progress import RunProgress
from sdqn_lab.tracking.recorder import RunRecorder
from sdqn_lab.tracking.tracker import NoTracker
from sdqn_lab.training.checkpoint import Checkpoint
from sdqn_lab.training.health import first_observations, probe
from sdqn_lab.training.trainer import Settings, StopRequested, Trainer

FIXES: Mapping[str, dict[str, dict[str, Any]]] = {
    "surrogate=atan": {"surrogate": {"_target_": "sdqn_lab.spiking.surrogate.Atan", "alpha": 2.0}},
    "neuron.v_threshold=0.5": {"neuron": {"v_threshold": 0.5}},
    "network.normalize_hidden=true": {"network": {"normalize_hidden": True}},
    "norm=popnorm": {"norm": {"_target_": "sdqn_lab.spiking.norm.PopNorm"}},
}
"""Changes that are tried on a dead network, each alone."""
COMPILED = "compiled updates; the first on a machine compile for a minute"
"""Else the minute's silence, and the ETA after it, look like what training costs."""


class DeadNetworkError(Exception):
    """The health check's verdict under `health=refuse`."""


def run_cell(
    cfg: DictConfig, directory: RunDirectory, console: Console, *, continue_with: str = ""
) -> int:
    """Train one cell to its end, from its checkpoint if it has one.

    Args:
        cfg: a validated config.
        directory: the cell's own; made if need be.
        console: where progress is shown.
        continue_with: the command that continues a run that was stopped.

    Returns:
        0 finished, 1 failed (its traceback is in `status.json`), 143 stopped by a signal: saved,
        or finished just before.

    Raises:
        BusyError: another process works on the run.
    """
    directory.path.mkdir(parents=True, exist_ok=True)
    name, checkpoint = directory.path.name, Checkpoint(directory.checkpoint)
    stop, error, state = StopFlag(insist=True), None, "preempted"
    command = continue_with or f"python -m sdqn_lab.run --resume {directory.path}"
    # A tracker's process is waited for last, when `status.json` says how the attempt ended.
    with directory.lock(), ExitStack() as ended:
        # Another process may have come to the end while this one was getting ready to go on.
        if directory.state == "finished" and not checkpoint.exists:
            console.print(f"{name}: finished already, not touched", soft_wrap=True, markup=False)
            return 0
        directory.update(state="pending", cell=name)
        write_atomic(directory.config, OmegaConf.to_yaml(cfg).encode())
        try:
            facts = checkpoint.read()
            # Sums depend on the number of threads: a run keeps the one it began with.
            threads = facts.get("threads", build.resolve_threads(cfg.threads))
            # What a checkpoint holds needs no other run, which may be gone.
            cfg = without_torso(cfg) if facts else cfg
            directory.begin_attempt(threads=threads, **_made_with(directory, cfg))
            torch.set_num_threads(threads)
            _train(cfg, directory, console, checkpoint, facts, stop, ended)
            state, line = "finished", ""
        except StopRequested:
            line = f"{name}: stopped, state saved; continue with\n  {command}"
        except StopNow:
            line = (
                f"{name}: ended at once by a second signal: what it did after step "
                f"{directory.saved_steps:,} is lost; continue with\n  {command}"
            )
        except DeadNetworkError as dead:
            state, error, line = "failed", str(dead), f"refused: {dead}"
        except Exception as failure:
            state, error = "failed", traceback.format_exc()
            line = f"{name}: failed: {type(failure).__name__}: {failure}"
        directory.end_attempt(state, error=error, steps=directory.saved_steps)
        if line:
            console.print(line, soft_wrap=True, markup=False)
        # After `finished` is on disk: a crash between leaves a state too many, not one too few.
        if state == "finished" and not cfg.keep_state:
            checkpoint.drop()
    # A signal that came too late for this run still stops a command with several runs.
    return 1 if state == "failed" else PREEMPTED_EXIT if stop.requested else 0


def _made_with(directory: RunDirectory, cfg: DictConfig) -> dict[str, Any]:
    """Code, libraries, hardware and torso of this attempt; changes to the code lie beside it."""
    changes = directory.path / "code.diff"
    changes.unlink(missing_ok=True)
    if text := provenance.diff():
        write_atomic(changes, f"{text}\n".encode())
    taken = cfg.torso and {"run": cfg.torso, "network_sha256": build.trained(cfg.torso).sha256}
    torso = {"torso": taken} if taken else {}
    return provenance.code() | provenance.machine() | provenance.scheduler() | torso


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
        stack.enter_context(stop.listening())
        train_env = build.build_env(cfg, cfg.algo.num_envs)
        stack.callback(train_env.close)
        normalizer = normalizer_of(train_env)
        # Of its own: an evaluation must not move the games of training.
        eval_env = build.build_env(cfg, cfg.protocol.eval_episodes, normalizer)
        stack.callback(eval_env.close)
        agent = build.build_agent(cfg, build.env_spec(train_env))
        # It plays in the environments of training: the first iteration starts them anew, from a
        # seed of its own, so no number depends on this check.
        if not facts and cfg.health != "off":
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
        saver = Saver(cfg, directory, checkpoint, metrics, recorder)
        trainer = Trainer(
            Settings.of(cfg),
            agent,
            train_env,
            eval_env,
            recorder,
            save=saver.save,
            probed=saver.probed,
            save_due=saver.due,
            stop_requested=stop,
        )
        name, why = directory.path.name, agent.general_path
        fast = COMPILED if agent.device.type == "cpu" else "updates as CUDA graphs"
        memory = [] if agent.memory is None else [str(agent.memory)]
        for line in (f"general path: {why}" if why else fast, *agent.network.notes(), *memory):
            progress.say(f"{name}: {line}")
        if facts:
            if agent.memory is not None:
                checkpoint.load_memory(agent.memory)
            trainer.load_state_dict(checkpoint.load_state())
        trainer.run()


def _check_health(
    cfg: DictConfig, agent: Agent, env: VectorEnv, directory: RunDirectory, console: Console
) -> None:
    """Probe the network on real first observations; what is found is recorded in `health.json`.

    Raises:
        DeadNetworkError: the network is dead and the config asks to refuse it.
    """
    name, by_gradient = directory.path.name, agent.learns_by_gradient
    seed = stream_seed(cfg.seed, "health")
    observations = first_observations(env, seed)
    if (normalizer := normalizer_of(env)) is not None:
        normalizer.clear()  # training begins without statistics
    health = probe(agent.network, observations, seed, by_gradient=by_gradient)
    if not health.dead:
        write_json(directory.path / "health.json", health.record())
        if health.note:
            console.print(f"{name}: {health.note}", soft_wrap=True, markup=False)
        return
    helpful = []
    # What another run has trained fits no other layers.
    for change, delta in FIXES.items() if cfg.torso is None else ():
        ((group, keys),) = delta.items()
        # Another class brings its keys along; a single key must be one that this cell has.
        compared = ["_target_"] if "_target_" in keys else list(keys)
        if any(key not in cfg[group] or cfg[group][key] == keys[key] for key in compared):
            continue
        changed = OmegaConf.merge(OmegaConf.create(OmegaConf.to_container(cfg)), delta)
        assert isinstance(changed, DictConfig)
        network = build.initial_network(changed, build.env_spec(env))
        if not probe(network, observations, 0, by_gradient=by_gradient).dead:
            helpful.append(change)
    write_json(directory.path / "health.json", {**health.record(), "fixes": helpful})
    why = (
        "no gradient reaches any parameter"
        if by_gradient
        else f"no unit of {', '.join(health.silent)} fires"
    )
    axes = " ".join(f"{axis}={cfg.choices[axis]}" for axis in ("neuron", "surrogate", "norm"))
    advice = f"write {' or '.join(helpful)}" if helpful else "none of the usual changes helps"
    line = f"{name}: dead: {why} under {axes}; {advice}"
    if cfg.health == "refuse":
        raise DeadNetworkError(line)
    console.print(f"WARNING {line}", style="bold red", soft_wrap=True, markup=False)


class Saver:
    """Decides when a checkpoint is due inside an iteration and puts everything into it."""

    def __init__(
        self,
        cfg: DictConfig,
        directory: RunDirectory,
        checkpoint: Checkpoint,
        metrics: MetricsFile,
        recorder: RunRecorder,
    ) -> None:
        self._directory, self._checkpoint = directory, checkpoint
        self._metrics, self._recorder = metrics, recorder
        self._period_seconds: float = 60.0 * cfg.checkpoint_every_minutes
        self._last = time.monotonic()

    def due(self) -> bool:
        """Whether the period since the last checkpoint is over."""
        return time.monotonic() - self._last > self._period_seconds

    def probed(self, step: int, seen: Probe) -> None:
        """Write what a probe of the network found."""
        record = {"version": PROBE_VERSION, "step": step, **asdict(seen)}
        write_json(self._directory.probe, record)

    def save(self, trainer: Trainer) -> None:
        """Write networks and checkpoint."""
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
        agent, folder = trainer.agent, self._directory.path
        ends = agent.env.observation_shape, agent.env.actions, trainer.collector.normalizer
        save_network(agent.network, folder / "network_last.safetensors", *ends)
        if trainer.counters.best_steps == trainer.counters.steps:
            save_network(agent.network, folder / "network_best.safetensors", *ends)
        self._checkpoint.save(trainer.state_dict(), agent.memory, facts)
        # The period runs from the end: on a slow disk saves would otherwise follow one another.
        self._last = time.monotonic()
        self._recorder.checkpoint_seconds += self._last - begin


def save_network(
    network: nn.Module,
    path: Path,
    observation_shape: tuple[int, ...],
    actions: ActionSpace,
    normalizer: Normalizer | None = None,
) -> None:
    """Weights as safetensors with a checksum, atomically; they load without pickle.

    With its ends the network can be built without an environment. Where observations are
    normalized, their mean and variance lie beside the weights.
    """
    ends: dict[str, Any] = {"observation_shape": observation_shape}
    ends |= {"num_actions": actions} if isinstance(actions, int) else {"box": asdict(actions)}
    # An engine's parameters are views in an order of its own; files hold torch's.
    tensors = {key: value.cpu().contiguous() for key, value in network.state_dict().items()}
    if normalizer is not None:
        seen = normalizer.moments.state_dict()
        tensors |= {name: torch.from_numpy(seen[key]) for name, key in STORED.items()}
    # One entry: the order of several would differ from file to file.
    metadata = json.dumps({**ends, "sha256": fingerprint(tensors, ends)})
    write_atomic(path, save(tensors, metadata={"ends": metadata}))
