"""What is wrong with a key, its value or its file, found by the types of Hydra's exceptions."""

import re
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from types import NoneType
from typing import Any, get_args, get_type_hints

import yaml
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from sdqn_lab.checks.refused import Refused, alternatives, first_line, written
from sdqn_lab.config.overrides import lines, options
from sdqn_lab.config.schema import CHOOSING, GROUPS, Config
from sdqn_lab.envs.atari import REFUSED

FILE_ERRORS = (HydraException, OmegaConfBaseException, yaml.YAMLError)
"""What composing options raises where one of them, or its file, is wrong."""
TYPES = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def wrong_file(error: Exception, chosen: Iterable[Override]) -> Refused:
    """Say what is wrong with an option, or with the text of its file.

    Args:
        error: one of `FILE_ERRORS`.
        chosen: the overrides that chose the options.
    """
    chosen = list(chosen)
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark
        where = f"{mark.name}, line {mark.line + 1}" if mark else "a config file"
        return Refused(where, None, f"not YAML ({error.problem}); mend the file")
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _unknown_option(str(error.missing_cfg_file), chosen)
    # Only Hydra's text says in which file it is.
    found = re.match(r"In '(\w+)/(\w+)': ", str(error))
    source = f"{found[1]}={found[2]}" if found else "config.yaml"
    cause = error.__cause__ or error.__context__ or error  # Hydra raises anew, without a cause
    if key := getattr(cause, "full_key", None):
        if isinstance(cause, ConfigAttributeError | ConfigKeyError):
            rule = _no_key(key, _annotation(key.rpartition(".")[0]))
            return Refused(f"{source}: {key}", None, rule)
        return Refused(f"{source}: {key}", getattr(cause, "value", None), _type_rule(key, cause))
    # Left over: Hydra found no default that such an override could replace.
    for override in chosen:
        key = override.get_key_element()
        if key not in GROUPS and not override.is_hydra_override():
            line = override.input_line or key
            return Refused(line, None, f"no group {key}; {alternatives(key, GROUPS, 'groups')}")
    return Refused(source, None, first_line(error).removeprefix(found[0] if found else ""))


def _unknown_option(file: str, chosen: list[Override]) -> Refused:
    named = [o.key_or_group for o in chosen if file.startswith(f"{o.key_or_group}/")]
    group = named[0] if named else file.rpartition("/")[0]
    option = file.removeprefix(f"{group}/")
    subject = f"{group}={option}"
    swept = any(o.key_or_group == group and o.is_sweep_override() for o in chosen)
    if subject not in lines(chosen) and not swept:
        files = lines(o for o in chosen if o.key_or_group in (*CHOOSING, "env"))
        subject = f"{' or '.join(files) or 'config.yaml'}: {subject}"
    if group == "env" and option in REFUSED:
        rule = "a game for two, which ends the emulator's process"
        return Refused(subject, None, rule, "env=pong or another game for one")
    known = options(group, lines(chosen), bases=option.startswith("_"))
    # ALE/PongNoFrameskip-v4 is the same game under Gymnasium's name.
    if found := re.fullmatch(r"(?:.*/)?(\w+?)(?:NoFrameskip)?-v\d", option):
        name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", found[1]).lower()
        if name in known:
            return Refused(subject, None, "Gymnasium's name of a game", f"{group}={name}")
    return Refused(subject, None, f"no such option; {alternatives(option, known, 'options')}")


def unknown_key(cfg: DictConfig, override: Override) -> Refused:
    """Name the option that lacks a key, and the keys that it has."""
    key = override.key_or_group
    parent = key.rpartition(".")[0]
    node = OmegaConf.select(cfg, parent) if parent else cfg
    option = cfg.hydra.runtime.choices.get(parent)
    where = f"option {option} of {parent} has " if option else ""
    keys = [str(k) for k in node] if isinstance(node, DictConfig) else []
    line = override.input_line or key
    # Callbacks and the like are added to Hydra's own node.
    instead = f"+{line} to add it" if parent == "hydra" else ""
    return Refused(line, None, where + _no_key(key, keys), instead)


def wrong_type(cfg: DictConfig, override: Override, error: Exception) -> Refused:
    """Say which type a closed setting has, and a value that it can take."""
    key, value = override.key_or_group, override.value()
    expected = _annotation(key)
    example = OmegaConf.select(cfg, key)
    if isinstance(value, float | str) and int in _kinds(expected) and _whole(value) is not None:
        example = _whole(value)  # 1e7 is meant as ten million
    if not isinstance(example, bool | int | float | str):
        example = "VALUE"
    rule = _type_rule(key, error)
    return Refused(override.input_line or key, None, rule, f"{key}={written(example)}")


def wrong_value(key: str, value: Any, error: Exception) -> Refused:
    """Say which type a value that a reference led to should have."""
    return Refused(key, value, _type_rule(key, error))


def _no_key(key: str, known: Any) -> str:
    if key in CHOOSING:
        return "the file must begin with the line # @package _global_"
    name = key.rpartition(".")[2]
    if is_dataclass(known):
        known = [each.name for each in fields(known)]
    elif not isinstance(known, list):
        return f"no key {name}"
    shown = [each for each in known if not each.startswith("_")]
    hidden = ("hydra", "choices", "cells")
    return f"no key {name}; {alternatives(name, [k for k in shown if k not in hidden])}"


def _type_rule(key: str, error: BaseException) -> str:
    kinds = _kinds(_annotation(key))
    names = [TYPES[kind] for kind in kinds if kind in TYPES]
    if not names:
        return first_line(error)
    return f"must be {' or '.join([*names, *(['null'] if NoneType in kinds else [])])}"


def _annotation(key: str) -> Any:
    """The type that the schema gives a dotted key; the schema itself for no key."""
    node: Any = Config
    for part in filter(None, key.split(".")):
        node = get_type_hints(node).get(part) if is_dataclass(node) else None
    return node


def _kinds(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) or (hint,)


def _whole(value: float | str) -> int | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return int(number) if number.is_integer() else None
