"""The rules a composed config must keep, checked before anything is built for good.

Every check yields lines ``key=value: rule; write ...``. They are collected, so that a config with
three mistakes is answered once.
"""

import inspect
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple, get_type_hints

import numpy as np
import psutil
import torch
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf
from pydantic import ConfigDict, TypeAdapter
from pydantic import ValidationError as TypeMismatch

from sdqn_lab import build
from sdqn_lab.agents.replay import Replay
from sdqn_lab.envs.base import VectorEnv
from sdqn_lab.networks.blocks import Torso
from sdqn_lab.spiking.encoder import Encoder
from sdqn_lab.spiking.neuron import Neuron
from sdqn_lab.spiking.norm import Norm
from sdqn_lab.spiking.readout import Readout
from sdqn_lab.spiking.surrogate import Atan, Surrogate
from sdqn_lab.tracking.tracker import Tracker

OPEN_GROUPS: Mapping[str, type] = {
    "neuron": Neuron,
    "surrogate": Surrogate,
    "norm": Norm,
    "encoder": Encoder,
    "readout": Readout,
    "network": Torso,
    "tracker": Tracker,
}
"""Groups whose keys are the arguments of a class, and what that class must be."""
TRIALS: Mapping[str, Mapping[str, Any]] = {
    "surrogate": {},
    "encoder": {},
    "neuron": {"surrogate": Atan()},
    "norm": {"normalized_shape": (1,)},
    "readout": {"in_features": 1, "num_actions": 1},
}
"""Parts that are made once on trial, with what the network would hand them."""
MOST_ACTIONS = 256
LEAVE_FREE = 0.9
"""Share of the available memory that replay may take."""
TYPE_NAMES = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "a word",
    "list": "a list",
    "is_instance_of": "a list",  # sequences are the only arguments that are no plain values
}
"""Pydantic's names of types, in a person's words."""
REFUSAL = re.compile(
    r"(?P<key>[\w.]+) (?P<rule>must .+?), got (?P<value>.+?)"
    r"(?:: (?:(?P<reason>.+?)[;,] )?write (?P<instead>.+))?"
)
"""How the house's classes word a ValueError."""


class ConfigError(Exception):
    """A config that cannot run. ``problems`` holds one line for each thing that is wrong."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class Rule(NamedTuple):
    """A closed setting's admissible range."""

    key: str
    holds: Callable[[Any], bool]
    text: str
    instead: str


def _at_least(minimum: int, *keys: str) -> list[Rule]:
    rule, instead = f"must be >= {minimum}", f"{minimum} or more"
    return [Rule(key, lambda v: v >= minimum, rule, instead) for key in keys]


def _share(examples: Mapping[str, str]) -> list[Rule]:
    holds, text = lambda v: 0 <= v <= 1, "must lie in [0, 1]"
    return [Rule(key, holds, text, example) for key, example in examples.items()]


def _positive(examples: Mapping[str, str]) -> list[Rule]:
    return [Rule(key, lambda v: v > 0, "must be > 0", value) for key, value in examples.items()]


def _one_of(key: str, *options: str) -> list[Rule]:
    text = f"must be one of {', '.join(options)}"
    return [Rule(key, lambda v: v in options, text, options[0])]


RULES = [
    *_at_least(0, "seed", "protocol.noop_max", "algo.weight_decay", "algo.replay_start_steps"),
    *_at_least(1, "time_window", "time_window_eval", "threads", "budget.steps"),
    *_at_least(1, "budget.log_every_steps", "algo.n_step", "algo.batch_size", "algo.num_envs"),
    *_at_least(1, "algo.learn_every_steps", "algo.target_update_every_updates"),
    *_at_least(1, "algo.iteration_steps", "algo.epsilon_decay_steps", "algo.replay_capacity_steps"),
    *_at_least(1, "protocol.eval_episodes", "protocol.episode_cap_frames"),
    *_share({"algo.gamma": "0.99", "protocol.epsilon_eval": "0.005"}),
    *_share({"algo.epsilon_begin": "1.0", "algo.epsilon_end": "0.05"}),
    *_positive({"algo.learning_rate": "1e-4", "algo.adam_eps": "1e-8"}),
    *_positive({"algo.max_grad_norm": "10.0, or null for no clipping"}),
    *_positive({"env.observation_scale": "1.0", "checkpoint_every_minutes": "10"}),
    *_one_of("algo.loss", "mse", "huber"),
    *_one_of("algo.optimizer", "adam", "adamw"),
    *_one_of("algo.replay_device", "cpu", "device"),
    *_one_of("backend", "auto", "fused", "reference"),
    *_one_of("precision", "float32", "bf16"),
    *_one_of("health", "warn", "refuse", "off"),
    Rule("algo.target_ema", lambda v: 0 < v <= 1, "must lie in (0, 1]", "1.0 for a hard copy"),
    Rule("protocol.sticky_actions", lambda v: 0 <= v < 1, "must lie in [0, 1)", "0.25"),
    Rule("seed", lambda v: v < 2**63, "must be below 2**63", "0"),
]


class Relation(NamedTuple):
    """Two closed settings that must fit each other."""

    key: str
    holds: Callable[[DictConfig], bool]
    says: Callable[[DictConfig], str]


RELATIONS = [
    Relation(
        "algo.batch_size",
        lambda c: c.algo.batch_size <= c.algo.replay_capacity_steps,
        lambda c: (
            f"larger than replay (algo.replay_capacity_steps={c.algo.replay_capacity_steps}); "
            f"write algo.batch_size={min(32, c.algo.replay_capacity_steps)}, or a larger replay"
        ),
    ),
    Relation(
        "algo.replay_start_steps",
        lambda c: c.algo.replay_start_steps <= c.algo.replay_capacity_steps,
        lambda c: (
            f"more than replay holds (algo.replay_capacity_steps={c.algo.replay_capacity_steps}); "
            f"write algo.replay_start_steps={c.algo.replay_capacity_steps} or less"
        ),
    ),
    Relation(
        "budget.steps",
        lambda c: c.budget.steps > c.algo.replay_start_steps,
        lambda c: (
            "ends before learning starts "
            f"(algo.replay_start_steps={c.algo.replay_start_steps}); "
            f"write budget.steps={c.algo.replay_start_steps + 1} or more, or start earlier"
        ),
    ),
    Relation(
        "algo.epsilon_end",
        lambda c: c.algo.epsilon_end <= c.algo.epsilon_begin,
        lambda c: (
            f"above algo.epsilon_begin={c.algo.epsilon_begin}, and exploration decays; "
            f"write algo.epsilon_end={c.algo.epsilon_begin} or less"
        ),
    ),
]


def validate(cfg: DictConfig, here: bool = True) -> None:
    """Check a resolved config as a whole.

    Args:
        cfg: the config.
        here: it is to run on this machine, which must have its device and the memory for replay.

    Raises:
        ConfigError: with a line for every problem found.
    """
    problems = [*_range_problems(cfg), *_plugin_problems(cfg), *_device_problems(cfg, here)]
    if not problems:
        problems = [*_relation_problems(cfg), *(_time_problems(cfg) or _shape_problems(cfg))]
    if not problems:
        problems = [*_sampling_problems(cfg), *(_memory_problems(cfg) if here else [])]
    if problems:
        raise ConfigError(problems)


def _range_problems(cfg: DictConfig) -> Iterator[str]:
    for rule in RULES:
        value = OmegaConf.select(cfg, rule.key)
        if value is None:
            continue
        finite = not isinstance(value, float) or math.isfinite(value)
        if not finite or not rule.holds(value):
            text = rule.text if finite else "must be a finite number"
            yield f"{rule.key}={value}: {text}; write {rule.key}={rule.instead}"


def _relation_problems(cfg: DictConfig) -> list[str]:
    return [
        f"{relation.key}={OmegaConf.select(cfg, relation.key)}: {relation.says(cfg)}"
        for relation in RELATIONS
        if not relation.holds(cfg)
    ]


def check_plugins(cfg: DictConfig) -> None:
    """Let a config name only classes of the kinds that its groups stand for.

    Raises:
        ConfigError: with a line for every class or argument that is wrong.
    """
    if problems := list(_plugin_problems(cfg)):
        raise ConfigError(problems)


def _plugin_problems(cfg: DictConfig) -> Iterator[str]:
    for group, base in OPEN_GROUPS.items():
        problems = [*_class_problems(cfg, group, base)]
        yield from problems or _argument_problems(cfg, group)
    yield from _class_problems(cfg, "env", VectorEnv)


def _class_problems(cfg: DictConfig, group: str, base: type) -> Iterator[str]:
    """The option names a class of the kind that its group needs."""
    node = cfg[group]
    if not isinstance(node, DictConfig) or "_target_" not in node:
        yield f"{group}={node}: not an option; write {group}=OPTION, or {group}._target_=CLASS"
        return
    found = _located(str(node._target_))
    if isinstance(found, str):
        yield f"{group}._target_={node._target_}: {found}; write {group}._target_=MODULE.CLASS"
    elif not _is_kind(found, base):
        yield (
            f"{group}._target_={node._target_}: {found.__name__} is no {base.__name__}; "
            f"write a class derived from {base.__module__}.{base.__name__}"
        )


def _is_kind(found: type, base: type) -> bool:
    if base is VectorEnv:  # a protocol with data members, which issubclass cannot ask for
        return all(hasattr(found, method) for method in ("reset", "step", "close"))
    return issubclass(found, base)


@cache
def _located(target: str) -> type | str:
    """The class of that name, or what is wrong with the name."""
    module, _, name = target.rpartition(".")
    try:
        found = getattr(import_module(module), name, None)
    except Exception as error:  # a user's module may fail in any way while it is imported
        return f"cannot be imported ({type(error).__name__}: {_one_line(error)})"
    return found if isinstance(found, type) else f"{module} has no class {name}"


def _argument_problems(cfg: DictConfig, group: str) -> list[str]:
    """Every key is an argument of the class, of its type, and the class accepts the values."""
    problems = _signature_problems(cfg[group], group)
    return problems or _trial_problems(cfg, group, _arguments(cfg[group]))


def _arguments(node: DictConfig) -> dict[str, Any]:
    return {key: value for key, value in _plain(node).items() if key != "_target_"}


def _signature_problems(node: DictConfig, group: str) -> list[str]:
    cls = get_class(node._target_)
    hints, parameters = _signature(cls)
    problems = []
    for key, value in _arguments(node).items():
        if key not in parameters:
            known = ", ".join(name for name in parameters if name in node) or "none"
            fault = f"{cls.__name__} has no argument {key}; keys: {known}"
            problems.append(f"{group}.{key}={value}: {fault}")
        elif fault := _type_fault(value, hints.get(key, Any)):
            problems.append(f"{group}.{key}={value}: {fault}{_default(node, group, key)}")
    return problems


def check_launcher(node: DictConfig, option: str | None) -> None:
    """Check a launcher of this house; Hydra's own, and others', answer for themselves.

    Args:
        node: ``hydra.launcher``.
        option: the name of its file.

    Raises:
        ConfigError: with a line for every argument that is wrong.
    """
    if not str(node._target_).startswith("hydra_plugins.sdqn_lab."):
        return
    node = DictConfig(OmegaConf.to_container(node, resolve=True))
    if problems := _signature_problems(node, "hydra.launcher"):
        raise ConfigError(problems)
    try:
        get_class(node._target_)(**_arguments(node))
    except ValueError as error:
        choices = {"hydra.launcher": option}
        cfg = OmegaConf.create({"choices": choices, "hydra.launcher": node})
        raise ConfigError([_refusal(cfg, "hydra.launcher", error)]) from error


def _signature(cls: type) -> tuple[dict[str, Any], Mapping[str, inspect.Parameter]]:
    initializer = inspect.getattr_static(cls, "__init__")
    return get_type_hints(initializer), inspect.signature(cls).parameters


def _plain(node: DictConfig) -> dict[str, Any]:
    plain = OmegaConf.to_container(node)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _type_fault(value: object, hint: object) -> str:
    """What is wrong with a value's type; empty if nothing is."""
    try:
        _adapter(hint).validate_python(value, strict=not isinstance(value, list))
    except TypeMismatch as error:
        kind, message = error.errors()[0]["type"], error.errors()[0]["msg"]
        name = TYPE_NAMES.get(kind) or TYPE_NAMES.get(kind.partition("_")[0])
        return f"must be {name}" if name else message.lower().replace("input should", "must")
    return ""


@cache
def _adapter(hint: Any) -> TypeAdapter[Any]:
    return TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))


def _default(node: DictConfig, group: str, key: str) -> str:
    """The value that an argument has by itself, as what to write."""
    parameter = inspect.signature(get_class(node._target_)).parameters.get(key)
    if parameter is None or parameter.default is parameter.empty:
        return ""
    value = parameter.default
    text = f"[{','.join(map(str, value))}]" if isinstance(value, tuple) else str(value)
    return f"; write {group}.{key}={text.lower() if isinstance(value, bool) else text}"


def _trial_problems(cfg: DictConfig, group: str, arguments: dict[str, Any]) -> list[str]:
    """Make a part once, weightless: its class knows its own ranges."""
    if group not in TRIALS:
        return []
    cls = get_class(cfg[group]._target_)
    parameters = inspect.signature(cls).parameters
    handed = {key: value for key, value in TRIALS[group].items() if key in parameters}
    try:
        with torch.device("meta"):
            cls(**arguments, **handed)
    except (ValueError, TypeError) as error:
        return [_refusal(cfg, group, error)]
    return []


def _refusal(cfg: DictConfig, group: str, error: Exception) -> str:
    """A class's own words, with the key's full name first."""
    message = _one_line(error)
    option = f"{group}={cfg.choices.get(group)}"
    found = REFUSAL.fullmatch(message)
    if not found:
        message = message.replace(": write ", "; write ")
        return message if message.startswith(f"{group}=") else f"{option}: {message}"
    key = found["key"]
    if "." not in key:
        key = f"{group}.{'id' if key == 'game' else key}"
    instead = f"; write {found['instead']}" if found["instead"] else ""
    home, _, name = key.rpartition(".")
    if not instead and home in cfg and "_target_" in cfg[home]:
        instead = _default(cfg[home], home, name)
    reason = f" ({found['reason']})" if found["reason"] else ""
    return f"{key}={found['value']}: {found['rule']}{reason}{instead}"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _device_problems(cfg: DictConfig, here: bool) -> Iterator[str]:
    device = cfg.device
    if device in ("auto", "cpu"):
        return
    kind, _, index = device.partition(":")
    if kind != "cuda" or not re.fullmatch(r"cuda(:\d+)?", device):
        yield f"device={device}: must be auto, cpu, cuda or cuda:N; write device=auto"
        return
    if not here:
        return
    if int(index or 0) >= (count := cuda_devices()):
        yield (
            f"device={device}: this machine has {count} CUDA devices; "
            "write device=cpu or device=auto"
        )


def cuda_devices() -> int:
    """How many this machine has."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _time_problems(cfg: DictConfig) -> list[str]:
    """An option that needs time cannot be joined to a neuron that has none."""
    if get_class(cfg.neuron._target_).temporal:  # type: ignore[attr-defined]
        return []
    problems, neuron = [], cfg.choices.get("neuron", "this")
    if get_class(cfg.readout._target_).temporal:  # type: ignore[attr-defined]
        option = cfg.choices.get("readout")
        problems.append(
            f"readout={option}: integrates over time, and neuron={neuron} has none; "
            "write readout=mean_spikes"
        )
    if not get_class(cfg.encoder._target_).constant:  # type: ignore[attr-defined]
        option = cfg.choices.get("encoder")
        problems.append(
            f"encoder={option}: draws a spike train over time, and neuron={neuron} has none; "
            "write encoder=direct"
        )
    return problems


def _shape_problems(cfg: DictConfig) -> list[str]:
    """Make environment and network once, the network weightless, and ask it for values."""
    try:
        shape, num_actions = env_shape(cfg)
    except Exception as error:  # a user's environment may fail in any way while it is made
        return [_refusal(cfg, "env", error)]
    if num_actions > MOST_ACTIONS:
        return [
            f"env.id={cfg.env.id}: {num_actions} actions, and replay keeps one in a byte; "
            f"write env.id=ID of an environment with at most {MOST_ACTIONS}"
        ]
    encoder = get_class(cfg.encoder._target_)
    if not encoder.constant and (fault := _no_probabilities(cfg)):  # type: ignore[attr-defined]
        return [
            f"encoder={cfg.choices.get('encoder')}: firing probabilities need observations "
            f"in [0, 1], and env={cfg.choices.get('env')} shows {fault}; write encoder=direct, "
            "or env.observation_scale=255 for images"
        ]
    groups = (*TRIALS, "network", "env")
    numbers = {"batch_size": cfg.algo.batch_size, "time_window": min(cfg.time_window, 2)}
    parts = {group: _plain(cfg[group]) for group in groups} | {
        "backend": cfg.backend,
        "precision": cfg.precision,
    }
    try:
        _trial_forward(json.dumps(parts), shape, num_actions, **numbers)
    except (ValueError, TypeError, RuntimeError) as error:
        if "more than 1 value per channel" in str(error):
            return [
                f"algo.batch_size={cfg.algo.batch_size}: norm={cfg.choices.get('norm')} has no "
                "statistics of a single sample; write algo.batch_size=32"
            ]
        return [_refusal(cfg, "network", error)]
    return []


def _no_probabilities(cfg: DictConfig) -> str | None:
    """The range of first observations, where it is no range of probabilities after scaling."""
    env = build.build_env(cfg, num_envs=1)
    first = env.reset(seed=0) / cfg.env.observation_scale
    env.close()
    low, high = float(first.min()), float(first.max())
    vector = first.ndim == 2
    return f"{low:.3g} to {high:.3g}" if vector or low < 0 or high > 1 else None


@cache
def _trial_forward(
    parts: str, shape: tuple[int, ...], num_actions: int, *, batch_size: int, time_window: int
) -> None:
    """Values of a weightless network; two steps are as good as all where shapes are concerned."""
    cfg = OmegaConf.create({**json.loads(parts), "time_window": time_window})
    with torch.no_grad(), torch.device("meta"):
        network = build.build_network(cfg, shape, num_actions).train()
        network(torch.empty(batch_size, *shape))


class EnvFacts(NamedTuple):
    """What validation must know of an environment."""

    observation_shape: tuple[int, ...]
    num_actions: int
    stack: int
    frame_shape: tuple[int, ...]
    frame_dtype: torch.dtype


def env_shape(cfg: DictConfig) -> tuple[tuple[int, ...], int]:
    """Observation shape and number of actions of the config's environment."""
    facts = _env_facts(cfg)
    return facts.observation_shape, facts.num_actions


def _env_facts(cfg: DictConfig) -> EnvFacts:
    return _probed_env(cfg.env._target_, cfg.env.id, tuple(_plain(cfg.protocol).items()))


@cache
def _probed_env(target: str, name: str, protocol: tuple[tuple[str, Any], ...]) -> EnvFacts:
    """Make one environment for all cells that share it; an emulator takes its time to start."""
    settings = {"env": {"_target_": target, "id": name}, "protocol": dict(protocol)}
    env = build.build_env(OmegaConf.create(settings), num_envs=1)
    try:
        dtype = torch.from_numpy(np.empty(0, env.observation_dtype)).dtype
        shape, frame = env.observation_shape, build.frame_shape(env)
        return EnvFacts(shape, env.num_actions, env.stack, frame, dtype)
    finally:
        env.close()


def _sampling_problems(cfg: DictConfig) -> list[str]:
    """A full replay can always be drawn from; else learning would wait for ever, in silence."""
    algo = cfg.algo
    # Not drawable: the rows whose window is incomplete, at both ends, and some between episodes.
    least = algo.batch_size + (algo.n_step + _env_facts(cfg).stack + 1) * algo.num_envs
    if algo.replay_capacity_steps >= least:
        return []
    return [
        f"algo.replay_capacity_steps={algo.replay_capacity_steps}: {algo.num_envs} environments "
        f"with algo.n_step={algo.n_step} and algo.batch_size={algo.batch_size} need more; "
        f"write algo.replay_capacity_steps={least} or more"
    ]


def _memory_problems(cfg: DictConfig) -> list[str]:
    needed = replay_bytes(cfg)
    free = psutil.virtual_memory().available
    device = build.resolve_device(cfg.device)
    if cfg.algo.replay_device == "device" and device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    if needed <= LEAVE_FREE * free:
        return []
    share = int(cfg.algo.replay_capacity_steps * LEAVE_FREE * free / needed)
    return [
        f"algo.replay_capacity_steps={cfg.algo.replay_capacity_steps}: replay needs "
        f"{needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; "
        f"write algo.replay_capacity_steps={share} or less"
    ]


def replay_bytes(cfg: DictConfig) -> int:
    """Memory of the replay that this config asks for, in bytes."""
    facts, algo = _env_facts(cfg), cfg.algo
    return Replay.bytes_needed(
        algo.replay_capacity_steps, algo.num_envs, facts.frame_shape, facts.frame_dtype
    )
