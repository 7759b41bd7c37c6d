"""The rules a composed config must keep, checked before anything is built for good.

Every check yields lines ``key=value: rule; write ...``. They are collected, so that a config with
three mistakes is answered once.
"""

import difflib
import inspect
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple, get_type_hints

import psutil
import torch
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

from sdqn_lab import build
from sdqn_lab.agents.base import Agent, EnvSpec, RunFacts
from sdqn_lab.checks.ranges import fault
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
    "algo": Agent,
}
"""Groups whose keys are the arguments of a class, and what that class must be."""
PLUGINS: Mapping[str, type] = {**OPEN_GROUPS, "env": VectorEnv}
"""The only places of a config that name a class."""
TRIALS: Mapping[str, Mapping[str, Any]] = {
    "surrogate": {},
    "encoder": {},
    "neuron": {"surrogate": Atan()},
    "norm": {"normalized_shape": (1,)},
    "readout": {"in_features": 1, "num_actions": 1},
}
"""Parts that are made once on trial, with what the network would hand them."""
OWN_CODE = "sdqn_lab."
MAX_LETTERS = 80
HANDED: Mapping[str, frozenset[str]] = {
    "neuron": frozenset({"surrogate"}),
    "norm": frozenset({"normalized_shape", "v_threshold", "v_reset"}),
    "readout": frozenset({"in_features", "num_actions"}),
    "network": frozenset({"observation_shape", "make_neuron", "make_norm"}),
    "algo": frozenset({"network", "env", "seed"}),
}
"""Arguments that this program gives to a group's class, and no config."""
EVERY_ALGORITHM = ("num_envs", "iteration_steps")
"""Keys of `algo` that the trainer asks for."""
MOST_ACTIONS = 256
REFUSAL = re.compile(
    r"(?P<key>[\w.]+) (?P<rule>must .+?), got (?P<value>.+?)"
    r"(?:: (?:(?P<reason>.+?)[;,] )?write (?P<instead>.+))?"
)
"""How this package's classes word a ValueError."""


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
    *_at_least(0, "seed", "protocol.noop_max"),
    *_at_least(1, "time_window", "time_window_eval", "threads", "budget.steps"),
    *_at_least(1, "budget.log_every_steps"),
    *_at_least(1, "protocol.eval_episodes", "protocol.episode_cap_frames"),
    *_share({"protocol.epsilon_eval": "0.005"}),
    *_positive({"env.observation_scale": "1.0", "checkpoint_every_minutes": "10"}),
    *_one_of("backend", "auto", "fused", "reference"),
    *_one_of("precision", "float32", "bf16"),
    *_one_of("health", "warn", "refuse", "off"),
    Rule("protocol.sticky_actions", lambda v: 0 <= v < 1, "must lie in [0, 1)", "0.25"),
    Rule("seed", lambda v: v < 2**63, "must be below 2**63", "0"),
]


def validate(cfg: DictConfig, here: bool = True) -> None:
    """Check a resolved config as a whole.

    Args:
        cfg: the config.
        here: it is to run on this machine, which must have its device and the memory it needs.

    Raises:
        ConfigError: with a line for every problem found.
    """
    problems = [*_range_problems(cfg), *_plugin_problems(cfg), *_device_problems(cfg, here)]
    if not problems:
        problems = [*(_time_problems(cfg) or _shape_problems(cfg)), *_agent_problems(cfg, here)]
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


def check_plugins(cfg: DictConfig) -> None:
    """Let a config name only classes of the kinds that its groups stand for.

    Raises:
        ConfigError: with a line for every class or argument that is wrong.
    """
    if problems := list(_plugin_problems(cfg)):
        raise ConfigError(problems)


def _plugin_problems(cfg: DictConfig) -> Iterator[str]:
    if unfit := list(unfit_keys(_plain(cfg))):
        yield from unfit
        return
    for group, base in PLUGINS.items():
        problems = [*_class_problems(cfg, group, base)]
        if not problems and group in OPEN_GROUPS:
            problems = _argument_problems(cfg, group)
        yield from problems


def unfit_keys(node: Mapping[Any, Any] | Sequence[Any], prefix: str = "") -> Iterator[str]:
    """A line for each key that is for Hydra's ``instantiate``, which this program does not use.

    A class is named by ``_target_`` in the groups of ``PLUGINS``; whatever lies deeper is data.
    """
    items = node.items() if isinstance(node, Mapping) else enumerate(node)
    for key, value in items:
        name = f"{prefix}{key}"
        if str(key).startswith("_") and not (key == "_target_" and prefix[:-1] in PLUGINS):
            yield f"{name}={short(value)}: a class is named by GROUP._target_ alone; leave it out"
        elif isinstance(value, dict | list):
            yield from unfit_keys(value, f"{name}.")


def outside_code(cfg: Any) -> dict[str, str]:
    """Keys of a config that name code from outside this package, with their values.

    Gymnasium imports the module that stands before the colon of an id.
    """
    named = {f"{group}._target_": str(cfg[group]["_target_"]) for group in PLUGINS}
    found = {key: value for key, value in named.items() if not value.startswith(OWN_CODE)}
    game = str(cfg["env"]["id"])
    return found | ({"env.id": game} if ":" in game else {})


def short(value: object) -> str:
    """A value of any kind, in a line of bearable length."""
    line = " ".join(str(value).split())
    return line if len(line) <= MAX_LETTERS else f"{line[:MAX_LETTERS]}..."


def _class_problems(cfg: DictConfig, group: str, base: type) -> Iterator[str]:
    """The option names a class of the kind that its group needs."""
    node = cfg[group]
    if not isinstance(node, DictConfig) or not isinstance(node.get("_target_"), str):
        yield f"{group}={node}: not an option; write {group}=OPTION, or {group}._target_=CLASS"
        return
    found = _located(str(node._target_))
    if isinstance(found, str):
        yield f"{group}._target_={node._target_}: {found}; write {group}._target_=MODULE.CLASS"
    elif inspect.isabstract(found):
        yield (
            f"{group}._target_={node._target_}: {found.__name__} is abstract; "
            "write a class derived from it"
        )
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
    if not isinstance(found, type):
        return f"{module} has no class {name}"
    # A module of this package also knows classes of others, under a name that looks like ours.
    ours = found.__module__.startswith(OWN_CODE) or not target.startswith(OWN_CODE)
    return found if ours else f"{name} is a class of {found.__module__}"


def _argument_problems(cfg: DictConfig, group: str) -> list[str]:
    """Every key is an argument of the class, of its type, and the class accepts the values."""
    problems = _signature_problems(cfg[group], group)
    return problems or _trial_problems(cfg, group, _arguments(cfg[group]))


def _arguments(node: DictConfig) -> dict[str, Any]:
    return {key: value for key, value in _plain(node).items() if key != "_target_"}


def _signature_problems(node: DictConfig, group: str) -> list[str]:
    cls = get_class(node._target_)
    hints, parameters = _signature(cls)
    parameters = {k: p for k, p in parameters.items() if k not in HANDED.get(group, ())}
    given, problems = _arguments(node), list[str]()
    demanded = [k for k, parameter in parameters.items() if parameter.default is parameter.empty]
    demanded += EVERY_ALGORITHM if group == "algo" else ()
    for key in dict.fromkeys(demanded):
        if key not in given:
            problems.append(f"{group}.{key}: {cls.__name__} needs it; write {group}.{key}=VALUE")
    for key, value in given.items():
        if key not in parameters:
            keys = alternatives(key, [name for name in parameters if name in node])
            fact = f"{cls.__name__} has no argument {key}"
            problems.append(f"{group}.{key}={written(value)}: {fact}; {keys}")
        elif rule := fault(value, hints.get(key, Any)):
            default = _default(node, group, key)
            problems.append(f"{group}.{key}={written(value)}: {rule}{default}")
    return problems


def check_launcher(node: DictConfig, option: str | None) -> None:
    """Check a launcher of this package; Hydra's own, and others', answer for themselves.

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
    """Types and parameters of a class's arguments; ``*args`` and ``**kwargs`` name none."""
    initializer = inspect.getattr_static(cls, "__init__")
    every = inspect.signature(cls).parameters
    catch_all = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    named = {name: p for name, p in every.items() if p.kind not in catch_all}
    return get_type_hints(initializer, include_extras=True), named


def _plain(node: DictConfig) -> dict[str, Any]:
    plain = OmegaConf.to_container(node)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _default(node: DictConfig, group: str, key: str) -> str:
    """The value that an argument has by itself, as what to write."""
    parameter = inspect.signature(get_class(node._target_)).parameters.get(key)
    if parameter is None or parameter.default is parameter.empty:
        return ""
    return f"; write {group}.{key}={written(parameter.default)}"


def written(value: Any) -> str:
    """A plain value as the command line writes it."""
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    return f"[{','.join(map(str, value))}]" if isinstance(value, tuple) else str(value)


def alternatives(name: str, known: Iterable[str], kind: str = "keys") -> str:
    """Those that there are, and before them what was probably meant."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=3 if kind == "options" else 1)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    return f"{hint}{kind}: {', '.join(names) or 'none'}"


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
            f"env.id={cfg.env.id}: {num_actions} actions, and a run keeps one in a byte; "
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
    batch_size = cfg.algo.get("batch_size", 2)
    heads = build.agent_class(cfg).heads(num_actions, build.algo_arguments(cfg))
    parts = {group: _plain(cfg[group]) for group in groups} | {
        "backend": cfg.backend,
        "precision": cfg.precision,
        "time_window": min(cfg.time_window, 2),  # as good as all where shapes are concerned
    }
    try:
        _trial_forward(json.dumps(parts), shape, json.dumps(heads), batch_size)
    except (ValueError, TypeError, RuntimeError) as error:
        if "more than 1 value per channel" in str(error):
            return [
                f"algo.batch_size={batch_size}: norm={cfg.choices.get('norm')} has no "
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
def _trial_forward(parts: str, shape: tuple[int, ...], heads: str, batch_size: int) -> None:
    """Outputs of a weightless network."""
    cfg = OmegaConf.create(json.loads(parts))
    with torch.no_grad(), torch.device("meta"):
        network = build.build_heads(cfg, shape, json.loads(heads)).train()
        network(torch.empty(batch_size, *shape))


def env_shape(cfg: DictConfig) -> tuple[tuple[int, ...], int]:
    """Observation shape and number of actions of the config's environment."""
    env = env_spec(cfg)
    return env.observation_shape, env.num_actions


def env_spec(cfg: DictConfig) -> EnvSpec:
    """What an agent would know of the config's environment."""
    return _probed_env(cfg.env._target_, cfg.env.id, tuple(_plain(cfg.protocol).items()))


@cache
def _probed_env(target: str, name: str, protocol: tuple[tuple[str, Any], ...]) -> EnvSpec:
    """Make one environment for all cells that share it; an emulator takes its time to start."""
    settings = {"env": {"_target_": target, "id": name}, "protocol": dict(protocol)}
    env = build.build_env(OmegaConf.create(settings), num_envs=1)
    try:
        return build.env_spec(env)
    finally:
        env.close()


def _agent_problems(cfg: DictConfig, here: bool) -> list[str]:
    """What the algorithm itself says of its arguments, the length of the run and the memory."""
    try:
        env = env_spec(cfg)
    except Exception:  # the check of shapes says so already
        return []
    run = RunFacts(cfg.budget.steps, env, _free_bytes(cfg) if here else None)
    found = build.agent_class(cfg).problems(build.algo_arguments(cfg), run)
    return [f"{key}={value}: {rule}; write {instead}" for key, value, rule, instead in found]


def _free_bytes(cfg: DictConfig) -> dict[str, int]:
    host, device = psutil.virtual_memory().available, build.resolve_device(cfg.device)
    on_device = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else host
    return {"cpu": host, "device": on_device}


def memory_bytes(cfg: DictConfig) -> int:
    """Memory of the agent's replay or rollout that this config asks for, in bytes."""
    return build.agent_class(cfg).memory_bytes(build.algo_arguments(cfg), env_spec(cfg))
