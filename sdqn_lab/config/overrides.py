"""A command line's overrides: parsed, refused where Hydra would misread them, expanded."""

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
from hydra.errors import HydraException

from sdqn_lab.checks.refused import ConfigError, Refused
from sdqn_lab.config.schema import GROUPS, conf_dir

SEARCH_PATH = "hydra.searchpath"


def parse(overrides: Iterable[str]) -> list[Override]:
    """Parse overrides and refuse what Hydra would misread in silence.

    Raises:
        ConfigError: not an override, or not one option for one group.
    """
    parsed, problems = [], []
    for line in overrides:
        try:
            override = _parsed(line)
        except HydraException:
            problems.append(Refused(line, None, "not an override", "key=value"))
            continue
        parsed.append(override)
        key = override.key_or_group
        if not key:
            problems.append(Refused(line, None, "the key is missing", "key=value"))
        elif override.is_delete():
            instead = f"{key}={'OPTION' if key in GROUPS else 'VALUE'}"
            problems.append(Refused(line, None, "nothing can be taken away", instead))
        elif key in GROUPS and (problem := _wrong_choice(override, line)):
            problems.append(problem)
    if problems:
        raise ConfigError(problems)
    return parsed


@lru_cache(maxsize=4096)
def _parsed(line: str) -> Override:
    (override,) = OverridesParser.create().parse_overrides([line])
    return override


def _wrong_choice(override: Override, line: str) -> Refused | None:
    """A group takes the name of one option."""
    key, value = override.key_or_group, override.value()
    if isinstance(value, list | dict):
        rule = "a group takes one option, of a list Hydra would keep the last"
        each = override.get_value_string().strip("[]") or "OPTION"
        return Refused(line, None, rule, f"-m {key}={each} to run each")
    if override.is_add() or override.is_force_add():
        instead = f"{key}={override.get_value_string()}"
        return Refused(line, None, "a group is chosen without a plus", instead)
    if override.is_sweep_override() or isinstance(value, str):
        return None
    return Refused(line, None, "no option", f"{key}=OPTION with one of: {', '.join(options(key))}")


def lines(overrides: Iterable[Override]) -> list[str]:
    """Overrides as they were written."""
    return [override.input_line or "" for override in overrides]


def chooses(override: Override) -> bool:
    """Whether an override chooses files, and with them what the other overrides may refer to."""
    key = override.key_or_group
    return key in GROUPS or "/" in key or "@" in key or key == SEARCH_PATH


def options(group: str, overrides: Iterable[str] = (), bases: bool = False) -> list[str]:
    """The options of a group.

    Args:
        group: one of Hydra's, e.g. `norm` or `hydra/launcher`.
        overrides: a command's; `hydra.searchpath=[...]` among them brings options along.
        bases: list the files that options are made from instead, whose names begin with `_`.
    """
    search = [line for line in overrides if line.startswith(f"{SEARCH_PATH}=")]
    with config_loader() as loader:
        found = loader.get_group_options(group, ObjectType.CONFIG, "config", search)
    return [option for option in found if option.startswith("_") == bases]


def expand(overrides: Iterable[str]) -> list[list[str]]:
    """One list of overrides per cell, in Hydra's own order: the product of all swept values.

    Raises:
        ConfigError: an override is none, or sweeps over what cannot be counted.
    """
    every: list[list[str]] = []
    with config_loader() as loader:
        for override in parse(overrides):
            key, line = override.get_key_element(), override.input_line or ""
            if not override.is_sweep_override():
                every.append([f"{key}={override.get_value_element_as_str()}"])
                continue
            if not override.is_discrete_sweep():
                rule = "an interval has no values to run, only a sweeper that searches takes it"
                raise ConfigError([Refused(line, None, rule, f"{key}=VALUE,VALUE or range()")])
            override.config_loader = loader  # glob() asks it for the options of a group
            values = list(override.sweep_string_iterator())
            if not values:
                raise ConfigError([Refused(line, None, "fits no option", f"{key}=OPTION")])
            every.append([f"{key}={value}" for value in values])
    return [list(cell) for cell in product(*every)]


@contextmanager
def config_loader() -> Iterator[ConfigLoader]:
    """Hydra's loader of this program's configs; also inside a running job of Hydra's."""
    instance = GlobalHydra.instance()
    # Hydra refuses to start where it finds itself started, as inside of a job.
    outer, instance.hydra = instance.hydra, None
    try:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            yield instance.config_loader()
    finally:
        # Leaving, Hydra puts a copy of the state back as it was found: empty.
        GlobalHydra.instance().hydra = outer
