"""The way from a command line's words to one validated config: compose, resolve, validate.

Everything wrong is collected and raised as one ``ConfigError`` with a line for each problem (key,
value, rule, what to write), before any directory exists.
"""

import copy
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sdqn_lab.config.identity import cell_name, sweep_name
from sdqn_lab.config.messages import explain, first_line
from sdqn_lab.config.overrides import chooses, hydra_free, lines, options, parse
from sdqn_lab.config.schema import GROUPS, SIZES, Config, folder
from sdqn_lab.config.validation import (
    ConfigError,
    alternatives,
    validate,
)
from sdqn_lab.envs.atari import games as atari_games
from sdqn_lab.envs.minatar import GAMES as MINATAR_GAMES


def register() -> None:
    """Put the schema, the generated games, the sweeps and the resolvers where Hydra finds them."""
    store = ConfigStore.instance()
    store.store(name="schema", node=Config)
    for game in atari_games():
        _store_game(game, "_atari", game)
    for game in MINATAR_GAMES:
        _store_game(f"minatar_{game}", "_minatar", game)
    for file in sorted(folder("sweeps").glob("*.yaml")):
        node = OmegaConf.load(file)
        store.store(group="sweep", name=file.stem, node=node, package="_global_")
    OmegaConf.register_new_resolver("cell_name", _cell_name_resolver, replace=True)
    OmegaConf.register_new_resolver("sweep_name", _sweep_name_resolver, replace=True)


def _store_game(name: str, family: str, game: str) -> None:
    node = {"defaults": [family, "_self_"], "id": game}
    ConfigStore.instance().store(group="env", name=name, node=node)


def compose(overrides: list[str]) -> DictConfig:
    """Compose, resolve and validate: the same config as the command line would make.

    Args:
        overrides: Hydra overrides, one value a key, e.g. ``["norm=none", "env=pong", "seed=3"]``.

    Returns:
        The read-only, resolved config; ``choices`` maps each group to its option.

    Raises:
        ConfigError: everything wrong with it, a line each.
    """
    cfg = resolved(compose_raw(overrides))
    validate(cfg)
    return cfg


def resolved(cfg: DictConfig) -> DictConfig:
    """A read-only copy of a composed config: choices filled in, Hydra's node and references gone.

    Raises:
        ConfigError: a reference leads nowhere, or a required value is missing.
    """
    choices = {key: value for key, value in cfg.hydra.runtime.choices.items() if key in GROUPS}
    plain = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    if unfit := [*_base_files(choices), *_foreign_keys(plain)]:
        raise ConfigError(unfit)
    OmegaConf.update(plain, "choices", choices)
    if missing := list(_missing(OmegaConf.to_container(plain, resolve=False))):
        raise ConfigError([f"{key}: a value is required; write {key}=VALUE" for key in missing])
    try:
        OmegaConf.resolve(plain)
    except OmegaConfBaseException as error:
        raise ConfigError(list(_dangling(plain)) or [first_line(error)]) from error
    if isinstance(plain.algo, DictConfig):
        plain.algo.pop(SIZES, None)  # its values are in the arguments now
    OmegaConf.set_readonly(plain, True)
    return plain


def _base_files(choices: dict[str, str | None]) -> list[str]:
    """A file whose name begins with an underscore is what options are made from."""
    return [
        f"{group}={option}: a base that options are made from, no option itself; "
        f"write {group}=OPTION with one of: {', '.join(options(group))}"
        for group, option in choices.items()
        if option and option.startswith("_")
    ]


def _foreign_keys(cfg: DictConfig) -> list[str]:
    """Hydra lets a plus add any key to the root, where nothing would ever read it."""
    known = [f.name for f in fields(Config) if f.name != "choices"]
    return [
        f"{key}={cfg[key]}: no key {key}; {alternatives(key, known)}"
        for key in map(str, cfg)
        if key not in (*known, "choices")
    ]


def _missing(node: Any, prefix: str = "") -> Iterator[str]:
    """Keys without a value; those that refer to one of them are not counted."""
    if node == MISSING:
        yield prefix
    elif isinstance(node, dict):
        for key, value in node.items():
            yield from _missing(value, f"{prefix}.{key}".lstrip("."))


def _dangling(node: DictConfig, prefix: str = "") -> Iterator[str]:
    """A line for each reference that leads nowhere."""
    raw = OmegaConf.to_container(node, resolve=False)
    assert isinstance(raw, dict)
    for key in map(str, node):
        if OmegaConf.is_interpolation(node, key):
            try:
                node[key]
            except OmegaConfBaseException as error:
                full = prefix + key
                yield f"{full}={raw[key]}: {first_line(error)}; write {full}=VALUE"
        elif isinstance(raw[key], dict):
            yield from _dangling(node[key], f"{prefix}{key}.")


class Composer:
    """Composes many cells: what a set of chosen options gives by itself is composed only once.

    Hydra reads every file anew for each cell. Here the options' config is kept, and the plain
    values are set on a copy by Hydra's own function, so that both ways give equal configs.
    """

    def __init__(self) -> None:
        self._bases: dict[tuple[str, ...], DictConfig] = {}

    def compose_raw(self, overrides: list[str]) -> DictConfig:
        """Like the function of that name, for one cell."""
        parsed = parse(overrides)
        choosing = [o for o in parsed if chooses(o)]
        options = tuple(lines(choosing))
        try:
            if options not in self._bases:
                self._bases[options] = compose_raw(list(options))
            cfg = copy.deepcopy(self._bases[options])
            values = [o for o in parsed if o not in choosing]
            ConfigLoaderImpl._apply_overrides_to_config(values, cfg)
        except (ConfigError, HydraException, OmegaConfBaseException):
            return compose_raw(overrides)  # which knows what to say
        _note_overrides(cfg, parsed)
        return cfg


def _note_overrides(cfg: DictConfig, parsed: list[Override]) -> None:
    """Hydra's own record of what was written, which names of directories may refer to."""
    task = [o for o in parsed if not o.is_hydra_override()]
    cfg.hydra.overrides.task = lines(task)
    cfg.hydra.overrides.hydra = lines(o for o in parsed if o.is_hydra_override())
    form = cfg.hydra.job.config.override_dirname
    cfg.hydra.job.override_dirname = get_overrides_dirname(
        task, kv_sep=form.kv_sep, item_sep=form.item_sep, exclude_keys=form.exclude_keys
    )


def compose_raw(overrides: list[str], mode: RunMode = RunMode.RUN) -> DictConfig:
    """Compose with Hydra's own node, unresolved; Hydra's errors become a ``ConfigError``.

    Args:
        overrides: Hydra overrides; those that sweep are left out of a multirun's config.
        mode: a single run, or what the cells of a multirun have in common.
    """
    kept, problems = parse(overrides), list[str]()
    with hydra_free() as loader:
        while True:
            try:
                cfg = loader.load_configuration("config", lines(kept), run_mode=mode)
                break
            except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
                problems.append(explain(error, kept))
                # Without the override at fault the next problem comes to light.
                wrong = [o for o in kept if problems[-1].startswith(f"{o.input_line}: ")]
                if not wrong or wrong[0].key_or_group in GROUPS:
                    raise ConfigError(problems) from error
                kept = [o for o in kept if o not in wrong]
    if problems:
        raise ConfigError([*problems, *_other_problems(cfg)])
    return cfg


def _other_problems(cfg: DictConfig) -> list[str]:
    """What is wrong besides the overrides that were left out to get this config."""
    try:
        validate(resolved(cfg))
    except ConfigError as error:
        return error.problems
    return []


def _cell_name_resolver(*, _root_: DictConfig) -> str:
    return cell_name(_root_, _root_.hydra.runtime.choices)


def _sweep_name_resolver(*, _root_: DictConfig) -> str:
    return sweep_name(list(_root_.hydra.overrides.task), _root_.hydra.runtime.choices)


register()
