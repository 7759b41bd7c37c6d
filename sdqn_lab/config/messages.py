"""One line for each of Hydra's, OmegaConf's and YAML's exceptions."""

import json
import re
from dataclasses import fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

import yaml
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sdqn_lab.config.overrides import chooses, hydra_free, lines, options
from sdqn_lab.config.schema import CHOOSING, GROUPS, Config, conf_dir
from sdqn_lab.config.validation import (
    alternatives,
)
from sdqn_lab.envs.atari import REFUSED


def explain(error: Exception, overrides: list[Override]) -> str:
    """One line for one of Hydra's, OmegaConf's or YAML's exceptions."""
    if isinstance(error, yaml.MarkedYAMLError):
        return _broken_file(error)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _unknown_option(error, overrides)
    # What happens in a file is told in a text alone: where, then what, then the full key.
    text = str(error)
    file = re.match(r"In '(\w+)/(\w+)': ", text)
    source = f"{file[1]}={file[2]}: " if file else ""
    cause = error.__cause__ or error
    found = re.search(r"full_key: (\S+)", text)
    key = getattr(cause, "full_key", None) or (found[1] if found else "")
    if not key:
        return source + _unknown_group(text, overrides)
    given = next((o for o in reversed(overrides) if o.key_or_group == key), None)
    details = [line for line in str(cause).splitlines() if line and not line.startswith("In '")]
    message = details[0] if details else type(cause).__name__
    if source or given is None:
        quoted = re.match(r"Value '(.*?)' ", message)
        subject = f"{source}{key}={quoted[1]}" if quoted else f"{source}{key}"
    else:
        subject = given.input_line or key
    if "not in" in message:
        return f"{subject}: {_unknown_key(key, overrides)}"
    return f"{subject}: {_type_problem(key, message, overrides)}"


def _broken_file(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark
    where = f"{mark.name}, line {mark.line + 1}" if mark else "a config file"
    return f"{where}: not YAML ({error.problem}); mend the file"


def _unknown_option(error: MissingConfigException, overrides: list[Override]) -> str:
    group, _, option = str(error.missing_cfg_file).rpartition("/")
    subject = f"{group}={option}"
    if subject not in [o.input_line for o in overrides] and not any(
        o.key_or_group == group and o.is_sweep_override() for o in overrides
    ):
        files = lines(o for o in overrides if o.key_or_group in (*CHOOSING, "env"))
        subject = f"{' or '.join(files) or 'config.yaml'}: {subject}"
    if option in REFUSED and group == "env":
        return (
            f"{subject}: a game for two, which ends the emulator's process; "
            "write env=pong or another game for one"
        )
    known = options(group, bases=option.startswith("_"))
    return f"{subject}: no such option; {alternatives(option, known, 'options')}"


def _unknown_group(text: str, overrides: list[Override]) -> str:
    """Hydra found no key to name: a group that is not there, or a plus before a key that is."""
    if found := re.search(r"Could not override '(.*?)'", text):
        name = found[1]
        given = next((line for line in lines(overrides) if line.startswith(f"{name}=")), name)
        return f"{given}: no group {name}; {alternatives(name, GROUPS, 'groups')}"
    if found := re.search(r"An item is already at '(.*?)'", text):
        given = next(o.input_line or "" for o in overrides if o.key_or_group == found[1])
        return f"{given}: {found[1]} has a value already; write {given.lstrip('+')}"
    line = next((line.strip() for line in text.splitlines() if line.strip()), "cannot be composed")
    given = next((o.input_line for o in overrides if str(o.value()) in line), None)
    return f"{given}: {line}; write key=value" if given else line


def _unknown_key(key: str, overrides: list[Override]) -> str:
    """Name the option that lacks the key, and the keys it has."""
    parent, _, name = key.rpartition(".")
    if key in CHOOSING:
        return "the file must begin with the line # @package _global_"
    cfg = _without_keys(overrides)
    node = OmegaConf.select(cfg, parent) if cfg and parent else cfg
    schema = _annotation(parent) if parent else Config
    if cfg is not None and isinstance(node, DictConfig):
        option = cfg.hydra.runtime.choices.get(parent)
        keys = [str(k) for k in node if not str(k).startswith("_")]
    elif is_dataclass(schema):
        option, keys = None, [f.name for f in fields(schema)]
    else:
        return f"no key {name}; write a key that is there"
    where = f"option {option} of {parent} has no key {name}" if option else f"no key {name}"
    return f"{where}; {alternatives(name, [k for k in keys if k not in ('hydra', 'choices')])}"


TYPES = {int: "a whole number", float: "a number", bool: "true or false", str: "a word"}


def _type_problem(key: str, message: str, overrides: list[Override]) -> str:
    """Say which type a closed setting has, and a value that it can take."""
    expected = _annotation(key)
    kinds = get_args(expected) or (expected,)
    names = [TYPES[kind] for kind in kinds if kind in TYPES]
    if not names:
        return f"{message}; write a value of that kind"
    if NoneType in kinds:
        names.append("null")
    quoted = re.match(r"Value '(.*?)' ", message)
    whole = _whole(quoted[1]) if quoted and int in kinds else None
    example = _default(key, overrides) if whole is None else f"{whole}"
    return f"must be {' or '.join(names)}; write {key}={example}"


def explain_value(override: Override, error: Exception) -> str:
    """The line for an override whose value the schema refuses."""
    problem = _type_problem(override.key_or_group, first_line(error), [])
    return f"{override.input_line}: {problem}"


def _annotation(key: str) -> Any:
    """The type that the schema gives a dotted key."""
    node: Any = Config
    for part in key.split("."):
        node = get_type_hints(node).get(part) if is_dataclass(node) else None
    return node


def _whole(text: str) -> int | None:
    """1e7 is meant as ten million."""
    try:
        number = float(text)
    except ValueError:
        return None
    return int(number) if number.is_integer() else None


def _default(key: str, overrides: list[Override]) -> str:
    cfg = _without_keys(overrides)
    value = OmegaConf.select(cfg, key) if cfg else None
    return json.dumps(value).strip('"') if isinstance(value, int | float | str) else "VALUE"


def _without_keys(overrides: list[Override]) -> DictConfig | None:
    """The config that the chosen options give by themselves."""
    choosing = [o for o in overrides if chooses(o) and not o.is_sweep_override()]
    plain = [o for o in choosing if o.key_or_group not in CHOOSING]
    conf = conf_dir()
    return _composed(conf, tuple(lines(choosing))) or _composed(conf, tuple(lines(plain)))


@lru_cache
def _composed(conf: Path, overrides: tuple[str, ...]) -> DictConfig | None:
    with hydra_free() as loader:
        try:
            return loader.load_configuration("config", list(overrides), run_mode=RunMode.RUN)
        except (HydraException, OmegaConfBaseException, yaml.YAMLError):
            return None


def first_line(error: BaseException) -> str:
    """An exception's first line of text, or its class where it has none."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
