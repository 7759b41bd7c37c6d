"""Open groups: their keys are the arguments of a class, which is checked before it is called.

A config names a class by `_target_`. It must be of the kind that its group stands for, and its
constructor's signature, with the ranges in its annotations, says which values it takes.
"""

import inspect
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from typing import Any, get_type_hints

import torch
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

from sdqn_lab.agents.base import Agent
from sdqn_lab.checks.ranges import fault
from sdqn_lab.checks.refused import ConfigError, Refused, alternatives, one_line, written
from sdqn_lab.config.foreign import OWN_CODE, unfit_keys
from sdqn_lab.config.schema import Config
from sdqn_lab.envs.base import VectorEnv
from sdqn_lab.networks.blocks import Torso
from sdqn_lab.spiking.encoder import Encoder
from sdqn_lab.spiking.neuron import Neuron
from sdqn_lab.spiking.norm import Norm
from sdqn_lab.spiking.readout import Readout
from sdqn_lab.spiking.surrogate import Atan, Surrogate
from sdqn_lab.tracking.tracker import Tracker

PLUGINS: Mapping[str, type] = {
    "neuron": Neuron,
    "surrogate": Surrogate,
    "norm": Norm,
    "encoder": Encoder,
    "readout": Readout,
    "network": Torso,
    "tracker": Tracker,
    "algo": Agent,
    "env": VectorEnv,
}
"""The groups that name a class, and what that class must be."""
TRIALS: Mapping[str, Mapping[str, Any]] = {
    "surrogate": {},
    "encoder": {},
    "neuron": {"surrogate": Atan()},
    "norm": {"normalized_shape": (1,)},
    "readout": {"in_features": 1, "num_actions": 1, "make_layer": torch.nn.Linear},
}
"""Parts that are made once on trial, with what the network would hand them."""
HANDED: Mapping[str, frozenset[str]] = {
    "neuron": frozenset({"surrogate"}),
    "norm": frozenset({"normalized_shape", "v_threshold", "v_reset"}),
    "readout": frozenset({"in_features", "num_actions", "make_layer"}),
    "network": frozenset({"observation_shape", "make_neuron", "make_norm"}),
    "algo": frozenset({"network", "env", "seed"}),
}
"""Arguments that this program gives to a group's class, and no config."""
EVERY_ALGORITHM = ("num_envs", "iteration_steps")
"""Keys of `algo` that the trainer asks for."""
LAUNCHER = "hydra.launcher"


def check_plugins(cfg: DictConfig) -> None:
    """Let a config name only classes of the kinds that its groups stand for.

    Raises:
        ConfigError: every class or argument that is wrong.
    """
    if problems := list(plugin_problems(cfg)):
        raise ConfigError(problems)


def plugin_problems(cfg: DictConfig) -> Iterator[Refused]:
    """Everything that is wrong with a config's classes and their arguments."""
    # Such keys may name code too, so they are refused before any class is looked up.
    if unfit := list(unfit_keys(plain(cfg))):
        yield from unfit
        return
    for group, base in PLUGINS.items():
        if problem := _wrong_class(cfg, group, base):
            yield problem
        elif group != "env":  # a closed group, whose class is given its keys one by one
            problems = _wrong_arguments(cfg[group], group)
            yield from problems or _refused_on_trial(cfg, group)


def _wrong_class(cfg: DictConfig, group: str, base: type) -> Refused | None:
    node = cfg[group]
    key = f"{group}._target_"
    if not isinstance(node, DictConfig) or not isinstance(node.get("_target_"), str):
        return Refused(group, str(node), "not an option", f"{group}=OPTION, or {key}=CLASS")
    target = str(node._target_)
    found = _located(target)
    if isinstance(found, str):
        return Refused(key, target, found, f"{key}=MODULE.CLASS")
    if inspect.isabstract(found):
        return Refused(key, target, f"{found.__name__} is abstract; write a class derived from it")
    # VectorEnv is a protocol with data members, which issubclass cannot ask for.
    if base is VectorEnv:
        fits = all(hasattr(found, method) for method in ("reset", "step", "close"))
    else:
        fits = issubclass(found, base)
    home = f"{base.__module__}.{base.__name__}"
    rule = f"{found.__name__} is no {base.__name__}; write a class derived from {home}"
    return None if fits else Refused(key, target, rule)


@cache
def _located(target: str) -> type | str:
    """The class of that name, or what is wrong with the name."""
    module, _, name = target.rpartition(".")
    try:
        found = getattr(import_module(module), name, None)
    except Exception as error:  # a user's module may fail in any way while it is imported
        if isinstance(error, ModuleNotFoundError) and error.name == module.partition(".")[0]:
            return f"there is no package {error.name}; install it, or put its folder in PYTHONPATH"
        return f"cannot be imported ({type(error).__name__}: {one_line(error)})"
    if not isinstance(found, type):
        return f"{module} has no class {name}"
    # A module of this package also knows classes of others, under a name that looks like ours.
    ours = found.__module__.startswith(OWN_CODE) or not target.startswith(OWN_CODE)
    return found if ours else f"{name} is a class of {found.__module__}"


def _wrong_arguments(node: DictConfig, group: str) -> list[Refused]:
    """Every key is an argument of the class, with a value of its type and range."""
    cls = get_class(node._target_)
    # Of the initializer: a class's own annotations are attributes, not arguments.
    hints = get_type_hints(inspect.getattr_static(cls, "__init__"), include_extras=True)
    parameters = {k: p for k, p in named_parameters(cls).items() if k not in HANDED.get(group, ())}
    given, problems = arguments(node), list[Refused]()
    demanded = [k for k, parameter in parameters.items() if parameter.default is parameter.empty]
    demanded += EVERY_ALGORITHM if group == "algo" else ()
    for name in dict.fromkeys(demanded):
        if name not in given:
            key = f"{group}.{name}"
            problems.append(Refused(key, None, f"{cls.__name__} needs it", f"{key}=VALUE"))
    for name, value in given.items():
        key = f"{group}.{name}"
        if name not in parameters:
            keys = alternatives(name, [each for each in parameters if each in node])
            rule = f"{cls.__name__} has no argument {name}; {keys}"
            problems.append(Refused(key, value, rule))
        elif rule := fault(value, hints.get(name, Any)):
            shown = "null" if value is None else value
            problems.append(_with_default(node, Refused(key, shown, rule)))
    return problems


def named_parameters(cls: type) -> dict[str, inspect.Parameter]:
    """A class's arguments; `*args` and `**kwargs` name none."""
    catch_all = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    every = inspect.signature(cls).parameters
    return {name: each for name, each in every.items() if each.kind not in catch_all}


def _with_default(node: DictConfig, refused: Refused) -> Refused:
    """With the default of the argument as what to write, where nothing better is known."""
    name = refused.key.rpartition(".")[2]
    parameter = inspect.signature(get_class(node._target_)).parameters.get(name)
    if refused.instead or parameter is None or parameter.default is parameter.empty:
        return refused
    default = "null" if parameter.default is None else written(parameter.default)
    return Refused(refused.key, refused.value, refused.rule, default)


def _refused_on_trial(cfg: DictConfig, group: str) -> list[Refused]:
    """Make a part once, weightless: its class knows its own ranges."""
    if group not in TRIALS:
        return []
    cls = get_class(cfg[group]._target_)
    handed = {k: value for k, value in TRIALS[group].items() if k in named_parameters(cls)}
    try:
        with torch.device("meta"):
            cls(**arguments(cfg[group]), **handed)
    except (ValueError, TypeError) as error:
        return [refusal(cfg, group, error)]
    return []


def refusal(cfg: DictConfig, group: str, error: Exception) -> Refused:
    """What a group's class refused, under the key's full name; or what else it raised."""
    if not isinstance(error, Refused):
        return Refused(f"{group}={cfg.choices.get(group)}", None, one_line(error))
    named = "." in error.key or error.key in Config.__dataclass_fields__
    found = error if named else error.under(group)
    home = found.key.rpartition(".")[0]
    node = cfg.get(home) if home else None
    if not isinstance(node, DictConfig) or "_target_" not in node:
        return found
    return _with_default(node, found)


def check_launcher(node: DictConfig) -> None:
    """Check a launcher of this package; Hydra's own, and others', answer for themselves.

    Args:
        node: `hydra.launcher`.

    Raises:
        ConfigError: every argument that is wrong.
    """
    if not str(node._target_).startswith("hydra_plugins.sdqn_lab."):
        return
    # Hydra's node is in struct mode and may refer to others.
    node = DictConfig(OmegaConf.to_container(node, resolve=True))
    if problems := _wrong_arguments(node, LAUNCHER):
        raise ConfigError(problems)
    try:
        get_class(node._target_)(**arguments(node))
    except Refused as error:
        raise ConfigError([_with_default(node, error.under(LAUNCHER))]) from error


def arguments(node: DictConfig) -> dict[str, Any]:
    """A group's values, without the class."""
    return {key: value for key, value in plain(node).items() if key != "_target_"}


def plain(node: DictConfig) -> dict[str, Any]:
    """A node as plain values."""
    values = OmegaConf.to_container(node)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}
