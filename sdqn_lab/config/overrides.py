"""A command line's overrides: parsed, refused where Hydra would misread them, and expanded."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import product

from hydra import initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, OverrideParseException

from sdqn_lab.config.schema import CHOOSING, GROUPS, conf_dir
from sdqn_lab.config.validation import (
    ConfigError,
)


@contextmanager
def hydra_free() -> Iterator[ConfigLoader]:
    """Compose also inside a running Hydra job, whose global state is put back afterwards."""
    instance = GlobalHydra.instance()
    outer, instance.hydra = instance.hydra, None
    try:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            yield instance.config_loader()
    finally:
        # Leaving, Hydra puts a copy of the state back as it was found: empty.
        GlobalHydra.instance().hydra = outer


def options(group: str, bases: bool = False) -> list[str]:
    """The options of a group, or the files that they are made from."""
    with hydra_free() as loader:
        options: list[str] = loader.get_group_options(group, ObjectType.CONFIG)
    return [option for option in options if option.startswith("_") == bases]


def lines(overrides: Iterable[Override]) -> list[str]:
    """Overrides as they were written."""
    return [override.input_line or "" for override in overrides]


def chooses(override: Override) -> bool:
    """Whether an override chooses files, and so what other overrides may refer to."""
    key = override.key_or_group
    return key in GROUPS or "/" in key or "@" in key or key == "hydra.searchpath"


def parse(overrides: list[str]) -> list[Override]:
    """Parse overrides and refuse what Hydra would misread in silence.

    Raises:
        ConfigError: not an override, or not one option for one group.
    """
    parsed, problems = [], []
    for line in overrides:
        try:
            override = _parsed(line)
        except (OverrideParseException, HydraException):
            problems.append(f"{line}: not an override; write key=value")
            continue
        parsed.append(override)
        if problem := _override_problem(override):
            problems.append(f"{line}: {problem}")
    if problems:
        raise ConfigError(problems)
    return parsed


@lru_cache(maxsize=4096)
def _parsed(line: str) -> Override:
    (override,) = OverridesParser.create().parse_overrides([line])
    return override


def _override_problem(override: Override) -> str | None:
    key = override.key_or_group
    if not key:
        return "the key is missing; write key=value"
    if override.is_delete():
        return f"nothing can be taken away; write {key}={'OPTION' if key in GROUPS else 'VALUE'}"
    return _choice_problem(override) if key in GROUPS else None


def _choice_problem(override: Override) -> str | None:
    """A group takes the name of one option."""
    key, value = override.key_or_group, override.value()
    if isinstance(value, list | dict):
        each = override.get_value_string().strip("[]") or "OPTION"
        return (
            "a group takes one option, of a list Hydra would keep the last; "
            f"write -m {key}={each} to run each"
        )
    if override.is_add() or override.is_force_add():
        return f"a group is chosen without a plus; write {key}={override.get_value_string()}"
    may_be_null = value is None and key in CHOOSING
    if override.is_sweep_override() or isinstance(value, str) or may_be_null:
        return None
    return f"no option; write {key}=OPTION with one of: {', '.join(options(key))}"


def expand(overrides: list[str]) -> list[list[str]]:
    """One list of overrides a cell, in Hydra's own order: the product of all swept values.

    Raises:
        ConfigError: an override is none, or sweeps over what cannot be counted.
    """
    with hydra_free() as loader:
        return [list(cell) for cell in product(*(_values(o, loader) for o in parse(overrides)))]


def _values(override: Override, loader: ConfigLoader) -> list[str]:
    """The override for each of its values; a single one where it does not sweep."""
    key = override.get_key_element()
    if not override.is_sweep_override():
        return [f"{key}={override.get_value_element_as_str()}"]
    if not override.is_discrete_sweep():
        fault = "an interval has no values to run, only a sweeper that searches takes it"
        raise ConfigError([f"{override.input_line}: {fault}; write {key}=VALUE,VALUE or range()"])
    override.config_loader = loader  # glob() asks it for the options of a group
    values = list(override.sweep_string_iterator())
    if not values:
        raise ConfigError([f"{override.input_line}: fits no option; write {key}=OPTION"])
    return [f"{key}={value}" for value in values]
