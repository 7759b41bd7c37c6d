"""The rules that a composed config must keep, checked before anything is built for good."""

import json
import re
from collections.abc import Iterator
from dataclasses import is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_type_hints

import psutil
import torch
from annotated_types import Ge
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

from sdqn_lab.agents.base import EnvSpec, RunFacts
from sdqn_lab.assembly import build
from sdqn_lab.checks.ranges import OneOf, fault
from sdqn_lab.checks.refused import ConfigError, Refused, one_line, written
from sdqn_lab.config.plugins import TRIALS, plain, plugin_problems, refusal
from sdqn_lab.config.schema import Config
from sdqn_lab.config.stored import stored_data
from sdqn_lab.engines.network import obstacle
from sdqn_lab.networks.network import SpikingNetwork
from sdqn_lab.runs.directory import RunDirectory
from sdqn_lab.runs.upgrade import LATER
from sdqn_lab.spiking.norm import BatchNorm

MAX_ACTIONS = 256
"""A run keeps an action in a byte."""
TORSO_GROUPS = ("neuron", "norm", "encoder")
"""What must be the same where a torso is taken over; sizes show in its weights."""


def validate(cfg: DictConfig, here: bool = True) -> None:
    """Check a resolved config as a whole.

    Args:
        cfg: the config.
        here: it is to run on this machine, which must have its device and the memory it needs.

    Raises:
        ConfigError: every problem found.
    """
    problems = [*_out_of_range(cfg, Config), *plugin_problems(cfg), *_wrong_device(cfg, here)]
    # What follows makes environments and networks, which wrong values would only break.
    if not problems:
        problems = _without_time(cfg) or _wrong_shapes(cfg, here)
        # Environments say themselves, when they are made, that their package is absent.
        extra = get_class(cfg.tracker._target_).extra  # type: ignore[attr-defined]
        if extra and (refused := extra.lacking(f"tracker={cfg.choices.get('tracker')}")):
            instead = f"{refused.instead} or tracker=none"
            problems.insert(0, Refused(refused.key, None, refused.rule, instead))
        try:
            env = env_spec(cfg)
        except Exception:  # one of the problems; without it there is nothing to ask the algorithm
            raise ConfigError(problems) from None
        network = None if problems else _trial_network(cfg, env)[0]
        run = RunFacts(cfg.budget.steps, env, _free_bytes(cfg) if here else None, network)
        problems += build.agent_class(cfg).problems(build.algo_arguments(cfg), run)
    if problems:
        raise ConfigError(problems)


def _out_of_range(node: Any, schema: type, prefix: str = "") -> Iterator[Refused]:
    for name, hint in get_type_hints(schema, include_extras=True).items():
        value = node.get(name)
        if is_dataclass(hint) and isinstance(hint, type):
            yield from _out_of_range(value, hint, f"{prefix}{name}.")
            continue
        # Open groups and their like have rules of their own.
        closed = isinstance(value, bool | int | float | str)
        if closed and (rule := fault(value, hint)):
            yield Refused(prefix + name, value, rule, _example(hint))


def _example(hint: Any) -> str:
    """A value in a range, as near as can be said in general."""
    for bound in get_args(hint):
        if isinstance(bound, OneOf):
            return bound[0]
        if isinstance(bound, Ge):
            return f"{bound.ge} or more" if "lie" not in fault(-1, hint) else f"{bound.ge}"
    return next((example for part in get_args(hint) if (example := _example(part))), "1")


def _wrong_device(cfg: DictConfig, here: bool) -> Iterator[Refused]:
    device = cfg.device
    if device in ("auto", "cpu"):
        return
    if not re.fullmatch(r"cuda(:\d+)?", device):
        yield Refused("device", device, "must be auto, cpu, cuda or cuda:N", "auto")
    elif here and int(device.partition(":")[2] or 0) >= (count := cuda_devices()):
        rule = f"this machine has {count} CUDA devices"
        yield Refused("device", device, rule, "device=cpu or device=auto")


def cuda_devices() -> int:
    """How many this machine has."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _without_time(cfg: DictConfig) -> list[Refused]:
    """An option that needs time cannot be joined to a neuron that has none."""
    if get_class(cfg.neuron._target_).temporal:  # type: ignore[attr-defined]
        return []
    problems, neuron = [], f"neuron={cfg.choices.get('neuron', 'this')}"
    if get_class(cfg.readout._target_).temporal:  # type: ignore[attr-defined]
        rule = f"needs time, and {neuron} has none"
        problems.append(Refused("readout", cfg.choices.get("readout"), rule, "mean_spikes"))
    if not get_class(cfg.encoder._target_).constant:  # type: ignore[attr-defined]
        rule = f"makes a spike train over time, and {neuron} has none"
        problems.append(Refused("encoder", cfg.choices.get("encoder"), rule, "direct"))
    return problems


def _wrong_shapes(cfg: DictConfig, here: bool) -> list[Refused]:
    """Make environment and network once, the network weightless, and ask it for values."""
    try:
        env = env_spec(cfg)
    except Exception as error:  # a user's environment may fail in any way while it is made
        return [refusal(cfg, "env", error)]
    if env.action_box is None and env.num_actions > MAX_ACTIONS:
        rule = f"has {env.num_actions} actions, and a run keeps one in a byte"
        instead = f"env.id=ID of an environment with at most {MAX_ACTIONS}"
        return [Refused("env.id", cfg.env.id, rule, instead)]
    if cfg.env.normalize_rewards and cfg.protocol.reward_clipping:
        rule = "learning sees the sign of the reward (protocol.reward_clipping=true)"
        return [Refused("env.normalize_rewards", True, rule, "false")]
    problem = (
        _not_for_algorithm(cfg, env)
        or _no_probabilities(cfg)
        or _wrong_stack(cfg, env)
        or _wrong_network(cfg, env, here)
    )
    return [problem] if problem else []


def _not_for_algorithm(cfg: DictConfig, env: EnvSpec) -> Refused | None:
    """What the algorithm cannot choose, read or train."""
    algorithm, name = build.agent_class(cfg), f"algo={cfg.choices.get('algo')}"
    if env.action_box is not None and algorithm.continuous_head is None:
        rule = f"chooses among finitely many actions, and one of env={cfg.choices.get('env')} is "
        rule += "a number" if env.num_actions == 1 else f"{env.num_actions} numbers"
        instead = "algo=ppo, algo=a2c or algo=reinforce"
        return Refused("algo", cfg.choices.get("algo"), f"{rule} in an interval", instead)
    needed = algorithm.reads
    if needed is not None and not issubclass(get_class(cfg.readout._target_), needed):
        rule = f"{name} learns a readout of the kind {needed.__name__} alone"
        return Refused("readout", cfg.choices.get("readout"), rule, "output_spikes")
    if not algorithm.learns_by_gradient and cfg.encoder.get("learned"):
        return Refused("encoder.learned", True, f"{name} trains no encoder", "false")
    normalized = issubclass(get_class(cfg.norm._target_), BatchNorm)
    if not algorithm.learns_by_gradient and normalized and cfg.torso is None:
        rule = f"{name} leaves the torso as it is, so its running statistics are never taken"
        instead = "norm=popnorm, or torso=RUN_DIR of a run that has them"
        return Refused("norm", cfg.choices.get("norm"), rule, instead)
    return None


def _wrong_network(cfg: DictConfig, env: EnvSpec, here: bool) -> Refused | None:
    batch_size, algorithm = cfg.algo.get("batch_size", 2), build.agent_class(cfg)
    try:
        network, lacking = _trial_network(cfg, env)
    except (ValueError, TypeError, RuntimeError) as error:
        if "more than 1 value per channel" in str(error):  # torch has no exception of its own
            rule = f"norm={cfg.choices.get('norm')} has no statistics of a single sample"
            return Refused("algo.batch_size", batch_size, rule, "32")
        return refusal(cfg, "network", error)
    if cfg.backend == "compiled":
        on_gpu = here and build.resolve_device(cfg.device).type != "cpu"
        reason = "another device than the CPU" if on_gpu else lacking
        if not algorithm.has_compiled_updates:
            reason = f"algo={cfg.choices.get('algo')}"
        if reason:
            return Refused("backend", "compiled", f"not for {reason}", "backend=auto")
    if cfg.torso is not None and (problem := _wrong_torso(cfg, network)):
        return problem
    parameters = sum(parameter.numel() for parameter in network.parameters())
    need = 4 * parameters * algorithm.parameter_copies
    if here and need > (free := _free_bytes(cfg)["device"]):
        rule = f"training {parameters:,} parameters needs {need / 1e9:.1f} GB, {free / 1e9:.1f} GB"
        option = cfg.choices.get("network")
        return Refused("network", option, f"{rule} are free; write smaller layers")
    return None


def _wrong_torso(cfg: DictConfig, network: SpikingNetwork) -> Refused | None:
    """A torso is taken from a finished run of the same neurons, norms, inputs and sizes."""
    run, instead = RunDirectory(Path(cfg.torso)), "torso=RUN_DIR"
    try:
        if run.state != "finished":
            return Refused("torso", cfg.torso, "is no directory of a finished run", instead)
        there = stored_data(run.config)
        had, needs = _torso_settings(there), _torso_settings(cfg)
        weights = build.torso_weights(build.trained(cfg.torso))
    except Exception as error:  # whatever a damaged or foreign file may cause
        return Refused("torso", cfg.torso, f"cannot be read ({one_line(error)})", instead)
    if had.get("encoder.learned"):
        rule = "learned together with its encoder (encoder.learned=true), which is not taken over"
        return Refused("torso", cfg.torso, rule, "the directory of a run without")
    for key, value in needs.items():
        if (before := had.get(key, LATER.get(key))) != value:
            rule = f"the torso of {cfg.torso} learned with {written(before)}"
            return Refused(key, value, rule, written(before))
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    needed = {name: tuple(t.shape) for name, t in network.torso.state_dict().items()}
    for name in (*needed, *shapes):
        if shapes.get(name) != needed.get(name):
            sides = (f"{each.get(name, 'nothing')}" for each in (shapes, needed))
            rule = "its {} is {} and here {}".format(name, *sides)
            return Refused(
                "torso",
                cfg.torso,
                rule,
                "network.KEY=VALUE as that run has them, or a run of the same observations",
            )
    return None


def _torso_settings(cfg: DictConfig) -> dict[str, Any]:
    """What a torso must keep to be of use, by dotted key."""
    found = {f"{group}.{k}": v for group in TORSO_GROUPS for k, v in plain(cfg[group]).items()}
    keys = ["observation_scale", "normalize_observations"]
    keys += ["observation_clip"] if cfg.env.get("normalize_observations") else []
    return found | {f"env.{key}": cfg.env[key] for key in keys if key in cfg.env}


def _trial_network(cfg: DictConfig, env: EnvSpec) -> tuple[SpikingNetwork, str | None]:
    """The weightless network of a config after a first forward, and its `obstacle`."""
    algorithm, arguments = build.agent_class(cfg), build.algo_arguments(cfg)
    heads, apart = algorithm.heads(env.num_actions, arguments), algorithm.own_torsos(arguments)
    gaussian = algorithm.continuous_head if env.action_box is not None else None
    parts = {group: plain(cfg[group]) for group in (*TRIALS, "network", "env")} | {
        "backend": cfg.backend,
        "precision": cfg.precision,
        "time_window": min(cfg.time_window, 2),  # as good as all where shapes are concerned
    }
    batch_size = cfg.algo.get("batch_size", 2)
    return _trial_forward(
        json.dumps(parts), env.observation_shape, json.dumps(heads), apart, gaussian, batch_size
    )


def _no_probabilities(cfg: DictConfig) -> Refused | None:
    """An encoder that makes a spike train takes its input for probabilities or intensities."""
    encoder = build.make_encoder(cfg)
    if encoder.constant or encoder.unbounded:
        return None
    env = build.build_env(cfg, num_envs=1)
    first = env.reset(seed=0) / cfg.env.observation_scale
    env.close()
    low, high = float(first.min()), float(first.max())
    if first.ndim > 2 and low >= 0 and high <= 1:
        return None
    image, name = first.ndim > 2, cfg.choices.get("env")
    # One observation of a vector says nothing of the bounds of the next.
    shown = f"{low:.3g} to {high:.3g}" if image else "a vector"
    rule = f"makes spikes of images with values in [0, 1], and env={name} shows {shown}"
    instead = f"encoder=direct, or {'env.observation_scale=255' if image else 'encoder=population'}"
    return Refused("encoder", cfg.choices.get("encoder"), rule, instead)


def _wrong_stack(cfg: DictConfig, env: EnvSpec) -> Refused | None:
    """An encoder that compares frames must know how many an observation stacks."""
    frames = build.make_encoder(cfg).frames
    if frames in (None, env.stack):
        return None
    name = cfg.choices.get("env")
    if env.stack == 1:
        rule = f"compares stacked frames, and an observation of env={name} is a single one"
        return Refused("encoder", cfg.choices.get("encoder"), rule, "direct")
    rule = f"an observation of env={name} stacks {env.stack}"
    return Refused("encoder.frames", frames, rule, str(env.stack))


@cache
def _trial_forward(
    parts: str,
    shape: tuple[int, ...],
    heads: str,
    own_torsos: tuple[str, ...],
    gaussian: str | None,
    batch_size: int,
) -> tuple[SpikingNetwork, str | None]:
    """Run a weightless network once; see `_trial_network`."""
    cfg = OmegaConf.create(json.loads(parts))
    # On the meta device a network of any size takes neither memory nor time.
    with torch.no_grad(), torch.device("meta"):
        # Only in training mode does a norm refuse a batch from which it gets no statistics.
        network = build.build_heads(cfg, shape, json.loads(heads), own_torsos, gaussian).train()
        network(torch.empty(batch_size, *shape))
    # Memory that nobody writes to is not taken.
    lacking = obstacle(network.to_empty(device="cpu")) if cfg.backend == "compiled" else None
    return network, lacking


def env_spec(cfg: DictConfig) -> EnvSpec:
    """What an agent would know of the config's environment."""
    keys = ("_target_", "id", "normalize_observations", "observation_clip")
    settings = {"env": {key: cfg.env[key] for key in keys}, "protocol": plain(cfg.protocol)}
    return _probed_env(json.dumps(settings))


@cache
def _probed_env(written: str) -> EnvSpec:
    """Make one environment for all cells that share it; an emulator takes its time to start."""
    settings = json.loads(written)
    env = build.build_env(OmegaConf.create(settings), num_envs=1)
    try:
        return build.env_spec(env)
    finally:
        env.close()


def _free_bytes(cfg: DictConfig) -> dict[str, int]:
    host, device = psutil.virtual_memory().available, build.resolve_device(cfg.device)
    on_device = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else host
    return {"cpu": host, "device": on_device}


def memory_bytes(cfg: DictConfig) -> int:
    """Memory of the agent's replay or rollout that this config asks for, in bytes."""
    return build.agent_class(cfg).memory_bytes(build.algo_arguments(cfg), env_spec(cfg))
