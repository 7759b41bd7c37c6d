"""The rules a composed config must keep, checked before anything is built for good.

Every check yields lines ``key=value: rule; write ...``. They are collected, so that a config with three
mistakes is answered once.
"""

import inspect
import math
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple, get_type_hints

import psutil
import torch
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf
from pydantic import ConfigDict, TypeAdapter
from pydantic import ValidationError as TypeMismatch

from sdqn_lab import build
from sdqn_lab.agents.replay import Replay

OPEN_GROUPS = ("neuron", "surrogate", "norm", "encoder", "readout", "network")
LEAVE_FREE = 0.9
"""Share of the available memory that replay may take."""


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


def _at_least(minimum: int, *keys: str) -> list[Rule]:
    return [Rule(key, lambda v: v >= minimum, f"must be >= {minimum}") for key in keys]


def _share(*keys: str) -> list[Rule]:
    return [Rule(key, lambda v: 0 <= v <= 1, "must lie in [0, 1]") for key in keys]


def _positive(*keys: str) -> list[Rule]:
    return [Rule(key, lambda v: 0 < v < math.inf, "must be > 0") for key in keys]


def _one_of(key: str, *options: str) -> list[Rule]:
    return [Rule(key, lambda v: v in options, f"must be one of {', '.join(options)}")]


RULES = [
    *_at_least(0, "seed", "protocol.noop_max", "algo.weight_decay", "algo.replay_start_steps"),
    *_at_least(1, "time_window", "time_window_eval", "threads", "budget.steps"),
    *_at_least(1, "budget.log_every_steps", "algo.n_step", "algo.batch_size", "algo.num_envs"),
    *_at_least(1, "algo.learn_every_steps", "algo.target_update_every_updates"),
    *_at_least(1, "algo.iteration_steps", "algo.epsilon_decay_steps", "algo.replay_capacity_steps"),
    *_at_least(1, "protocol.eval_episodes", "protocol.episode_cap_frames"),
    *_share("algo.gamma", "algo.epsilon_begin", "algo.epsilon_end", "protocol.epsilon_eval"),
    *_positive("algo.learning_rate", "algo.adam_eps", "algo.max_grad_norm"),
    *_positive("env.observation_scale", "checkpoint_every_minutes"),
    *_one_of("algo.loss", "mse", "huber"),
    *_one_of("algo.optimizer", "adam", "adamw"),
    *_one_of("algo.replay_device", "cpu", "device"),
    *_one_of("health", "warn", "refuse", "off"),
    Rule("algo.target_ema", lambda v: 0 < v <= 1, "must lie in (0, 1]"),
    Rule("protocol.sticky_actions", lambda v: 0 <= v < 1, "must lie in [0, 1)"),
    Rule("seed", lambda v: v < 2**63, "must be below 2**63"),
]


def validate(cfg: DictConfig) -> None:
    """Check a resolved config as a whole.

    Raises:
        ConfigError: with a line for every problem found.
    """
    problems = [*_range_problems(cfg), *_plugin_problems(cfg), *_device_problems(cfg)]
    if not problems:
        problems = [*_cross_problems(cfg), *_shape_problems(cfg)]
    if not problems:
        problems = list(_memory_problems(cfg))
    if problems:
        raise ConfigError(problems)


def _range_problems(cfg: DictConfig) -> Iterator[str]:
    for rule in RULES:
        value = OmegaConf.select(cfg, rule.key)
        if value is None:
            continue
        if isinstance(value, float) and not math.isfinite(value):
            yield f"{rule.key}={value}: must be a finite number"
        elif not rule.holds(value):
            yield f"{rule.key}={value}: {rule.text}"


def _plugin_problems(cfg: DictConfig) -> Iterator[str]:
    for group in OPEN_GROUPS:
        yield from _signature_problems(group, cfg[group])


def _signature_problems(group: str, node: DictConfig) -> Iterator[str]:
    """Every key is an argument of the class, of the annotated type, and the class accepts the values."""
    if not isinstance(node, DictConfig) or "_target_" not in node:
        yield f"{group}={node}: not an option; write {group}=NAME, or {group}._target_=CLASS"
        return
    try:
        cls = get_class(node._target_)
    except Exception as error:  # Hydra wraps whatever the import raised
        yield f"{group}._target_={node._target_}: cannot be imported ({str(error).splitlines()[0]})"
        return
    hints = get_type_hints(cls.__init__)
    parameters = inspect.signature(cls).parameters
    for key, value in node.items():
        if key == "_target_":
            continue
        if key not in parameters:
            yield f"{group}.{key}={value}: {cls.__name__} has no argument {key}"
        elif fault := _type_fault(value, hints.get(str(key), Any)):
            yield f"{group}.{key}={value}: {fault}"


def _type_fault(value: object, hint: object) -> str | None:
    plain = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
    adapter: TypeAdapter[Any] = TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))
    try:
        adapter.validate_python(plain, strict=not isinstance(plain, list))
    except TypeMismatch as error:
        first = error.errors()[0]
        return first["msg"].lower()
    return None


def _device_problems(cfg: DictConfig) -> Iterator[str]:
    device = cfg.device
    if device in ("auto", "cpu"):
        return
    kind, _, index = device.partition(":")
    if kind != "cuda" or (index and not index.isdigit()):
        yield f"device={device}: must be auto, cpu, cuda or cuda:N"
        return
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(index or 0) >= count:
        yield f"device={device}: this machine has {count} CUDA devices; write device=cpu or device=auto"


def _cross_problems(cfg: DictConfig) -> Iterator[str]:
    algo = cfg.algo
    if algo.batch_size > algo.replay_capacity_steps:
        yield (
            f"algo.batch_size={algo.batch_size}: larger than replay "
            f"(algo.replay_capacity_steps={algo.replay_capacity_steps}); make one fit the other"
        )
    if algo.replay_start_steps > algo.replay_capacity_steps:
        yield (
            f"algo.replay_start_steps={algo.replay_start_steps}: more than replay holds "
            f"(algo.replay_capacity_steps={algo.replay_capacity_steps}); make one fit the other"
        )
    if algo.replay_start_steps >= cfg.budget.steps:
        yield (
            f"budget.steps={cfg.budget.steps}: ends before learning starts "
            f"(algo.replay_start_steps={algo.replay_start_steps}); make one fit the other"
        )
    least = (algo.n_step + 2) * algo.num_envs
    if algo.replay_capacity_steps < least:
        yield (
            f"algo.replay_capacity_steps={algo.replay_capacity_steps}: {algo.num_envs} environments "
            f"with algo.n_step={algo.n_step} need at least {least}"
        )
    if algo.epsilon_end > algo.epsilon_begin:
        yield (
            f"algo.epsilon_end={algo.epsilon_end}: above algo.epsilon_begin={algo.epsilon_begin}; "
            "exploration decays"
        )
    yield from _time_problems(cfg)


def _time_problems(cfg: DictConfig) -> Iterator[str]:
    """An option that needs time cannot be joined to a neuron that has none."""
    if get_class(cfg.neuron._target_).temporal:  # type: ignore[attr-defined]
        return
    neuron = cfg.choices.get("neuron", "this")
    if get_class(cfg.readout._target_).temporal:  # type: ignore[attr-defined]
        option = cfg.choices.get("readout")
        yield (
            f"readout={option}: integrates over time, and neuron={neuron} has none; "
            "write readout=mean_spikes"
        )
    if not get_class(cfg.encoder._target_).constant:  # type: ignore[attr-defined]
        option = cfg.choices.get("encoder")
        yield (
            f"encoder={option}: draws a spike train over time, and neuron={neuron} has none; "
            "write encoder=direct"
        )


def _shape_problems(cfg: DictConfig) -> Iterator[str]:
    """Build environment and network once, weightless, so that shapes and ranges speak up now."""
    try:
        shape, num_actions = env_shape(cfg)
    except (ValueError, ImportError) as error:
        yield str(error).splitlines()[0]
        return
    bounded = cfg.env.observation_scale > 1 or len(shape) > 1
    if not get_class(cfg.encoder._target_).constant and not bounded:  # type: ignore[attr-defined]
        yield "encoder=poisson: firing probabilities need observations in [0, 1]; write encoder=direct"
        return
    try:
        with torch.device("meta"):
            build.build_network(cfg, shape, num_actions)
    except (ValueError, TypeError) as error:
        yield str(error).splitlines()[0]


def env_shape(cfg: DictConfig) -> tuple[tuple[int, ...], int]:
    """Observation shape and number of actions of the config's environment."""
    return _env_shape(OmegaConf.to_yaml(OmegaConf.masked_copy(cfg, ["env", "protocol"])))


@lru_cache(maxsize=None)
def _env_shape(yaml: str) -> tuple[tuple[int, ...], int]:
    env = build.build_env(OmegaConf.create(yaml), num_envs=1)
    try:
        return env.observation_shape, env.num_actions
    finally:
        env.close()


def _memory_problems(cfg: DictConfig) -> Iterator[str]:
    needed = replay_bytes(cfg)
    free = psutil.virtual_memory().available
    device = build.resolve_device(cfg.device)
    if cfg.algo.replay_device == "device" and device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    if needed > LEAVE_FREE * free:
        share = int(cfg.algo.replay_capacity_steps * LEAVE_FREE * free / needed)
        yield (
            f"algo.replay_capacity_steps={cfg.algo.replay_capacity_steps}: replay needs "
            f"{needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; write at most {share}"
        )


def replay_bytes(cfg: DictConfig) -> int:
    """Memory of the replay that this config asks for, in bytes."""
    env = build.build_env(cfg, num_envs=1)
    frame = build.frame_shape(env)
    dtype = build.frame_dtype(env)
    env.close()
    return Replay.bytes_needed(cfg.algo.replay_capacity_steps, cfg.algo.num_envs, frame, dtype)
