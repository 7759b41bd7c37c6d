"""The way from a command line to one validated config: compose, resolve, validate.

Everything wrong is collected and raised as one `ConfigError`, before any directory exists.
"""

import copy
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from sdqn_lab.checks.refused import ConfigError, Refused, alternatives, first_line
from sdqn_lab.config.identity import NEUTRAL, cell_name, digest, slug
from sdqn_lab.config.messages import (
    FILE_ERRORS,
    unknown_key,
    wrong_file,
    wrong_type,
    wrong_value,
)
from sdqn_lab.config.overrides import SEARCH_PATH, chooses, config_loader, lines, options, parse
from sdqn_lab.config.schema import GROUPS, SIZES, Config, conf_dir, folder
from sdqn_lab.envs.atari import games as atari_games
from sdqn_lab.envs.minatar import GAMES as MINATAR_GAMES


def register() -> None:
    """Put the schema, the generated games, the sweeps and the resolvers where Hydra finds them."""
    store = ConfigStore.instance()
    store.store(name="schema", node=Config)
    families = {game: ("_atari", game) for game in atari_games()}
    families |= {f"minatar_{game}": ("_minatar", game) for game in MINATAR_GAMES}
    for name, (family, game) in families.items():
        store.store(group="env", name=name, node={"defaults": [family, "_self_"], "id": game})
    for file in sorted(folder("sweeps").glob("*.yaml")):
        node = OmegaConf.load(file)
        store.store(group="sweep", name=file.stem, node=node, package="_global_")

    def named_cell(*, _root_: DictConfig) -> str:
        return cell_name(_root_, _root_.hydra.runtime.choices)

    def named_sweep(*, _root_: DictConfig) -> str:
        return sweep_name(noted(_root_, "task"), _root_.hydra.runtime.choices)

    OmegaConf.register_new_resolver("cell_name", named_cell, replace=True)
    OmegaConf.register_new_resolver("sweep_name", named_sweep, replace=True)


def compose(overrides: list[str]) -> DictConfig:
    """Compose, resolve and validate: the same config as the command line would make.

    Args:
        overrides: Hydra overrides, one value per key, e.g. `["norm=none", "env=pong", "seed=3"]`.

    Returns:
        The read-only, resolved config; `choices` maps each group to its option.

    Raises:
        ConfigError: everything that is wrong with it.
    """
    # Imported here: validation makes networks, and reading a config must not load torch.
    from sdqn_lab.config.validation import validate

    cfg = resolved(compose_raw(overrides))
    validate(cfg)
    return cfg


def compose_raw(overrides: list[str], mode: RunMode = RunMode.RUN) -> DictConfig:
    """Compose with Hydra's own node, unresolved.

    Args:
        overrides: Hydra overrides.
        mode: a single run, or what the cells of a multirun have in common; then overrides that
            sweep are left out.

    Raises:
        ConfigError: everything that is wrong with the overrides.
    """
    return Composer().compose_raw(overrides, mode)


class Composer:
    """Composes many cells; Hydra reads the files of a set of options only once.

    Hydra takes half a tenth of a second per config. So the options' config is kept, and the plain
    values are set on a copy, as Hydra does it.
    """

    def __init__(self) -> None:
        self._bases: dict[tuple[str, ...], DictConfig] = {}

    def compose_raw(self, overrides: list[str], mode: RunMode = RunMode.RUN) -> DictConfig:
        """Like the function of that name, for one cell of many."""
        parsed = parse(overrides)
        swept = mode == RunMode.MULTIRUN
        fixed = [o for o in parsed if not (swept and o.is_sweep_override())]
        chosen = [o for o in fixed if chooses(o)]
        cfg = copy.deepcopy(self._base(chosen, mode))
        problems = [problem for o in fixed if o not in chosen and (problem := _set_value(cfg, o))]
        if problems:
            from sdqn_lab.config.validation import validate

            # What is wrong besides the overrides that were left out is said at once.
            try:
                validate(resolved(cfg))
            except ConfigError as error:
                problems += error.problems
            raise ConfigError(problems)
        # Hydra's own record of what was written, which names of directories may refer to. Swept
        # ones too: a sweep is named after them.
        task = lines(o for o in parsed if not o.is_hydra_override())
        cfg.hydra.overrides.task = task
        cfg.hydra.overrides.hydra = lines(o for o in parsed if o.is_hydra_override())
        form = cfg.hydra.job.config.override_dirname
        kept = [
            line
            for line, o in zip(lines(parsed), parsed, strict=True)
            if line in task and o.key_or_group not in form.exclude_keys
        ]
        cfg.hydra.job.override_dirname = form.item_sep.join(sorted(kept)).replace("=", form.kv_sep)
        return cfg

    def _base(self, chosen: list[Override], mode: RunMode) -> DictConfig:
        key = (mode.name, *lines(chosen))
        if key not in self._bases:
            # Hydra passes over a folder that is not there.
            paths = [o.value() for o in chosen if o.key_or_group == SEARCH_PATH]
            for path in paths[0] if paths and isinstance(paths[0], list) else []:
                folder = str(path).removeprefix("file://")
                if folder != str(path) and not Path(folder).is_dir():
                    instead = "[file://DIR]"
                    raise ConfigError([Refused(SEARCH_PATH, path, "no such directory", instead)])
            if swept := [
                line for line, o in zip(key[1:], chosen, strict=True) if o.is_sweep_override()
            ]:
                raise ConfigError([several(line) for line in swept])
            with config_loader() as loader:
                try:
                    cfg = loader.load_configuration("config", lines(chosen), run_mode=mode)
                except FILE_ERRORS as error:
                    raise ConfigError([wrong_file(error, chosen)]) from error
            self._bases[key] = cfg
        return self._bases[key]


def _set_value(cfg: DictConfig, override: Override) -> Refused | None:
    """Apply an override that chooses no file, as Hydra would; what is wrong with it."""
    key, value, line = override.key_or_group, override.value(), override.input_line or ""
    if override.is_sweep_override():
        return several(line)
    # A plus is for what is not there yet: an argument of a class, a callback.
    adds = override.is_add() or override.is_force_add()
    try:
        there = OmegaConf.select(cfg, key, throw_on_missing=False) if override.is_add() else None
        if there is not None and not isinstance(value, dict | list):
            return Refused(line, None, f"{key} has a value already", line.lstrip("+"))
        # OmegaConf cannot merge a mapping into a null, such as hydra.sweeper.params.
        merge = not isinstance(value, dict) or OmegaConf.select(cfg, key) is not None
        OmegaConf.update(cfg, key, value, merge=merge, force_add=adds)
    except (ConfigAttributeError, ConfigKeyError):
        return unknown_key(cfg, override)
    except OmegaConfBaseException as error:
        return wrong_type(cfg, override, error)
    return None


def several(line: str) -> Refused:
    """What is said of an override, or of rows, that would give several cells to a single run."""
    return Refused(line, None, "several values need a multirun", "-m before the overrides")


def sweep_name(overrides: list[str], choices: dict[str, str | None]) -> str:
    """The name of the file in `sweeps/`, or the swept keys with a hash of the whole grid."""
    named = choices.get("sweep")
    if named:
        return named
    given = [o for o in parse(overrides) if o.key_or_group == "cells"]
    given += [o for o in parse(overrides) if o.key_or_group.split(".")[0] not in NEUTRAL]
    swept = [o.key_or_group for o in given if o.is_sweep_override() or o.key_or_group == "cells"]
    return "_".join([*map(slug, swept), digest(sorted(o.input_line or "" for o in given))])


def noted(cfg: DictConfig, kind: str) -> list[str]:
    """Hydra's record of the overrides, `task` or `hydra`; a reference in one stays what it is."""
    written = OmegaConf.to_container(cfg.hydra.overrides[kind], resolve=False)
    assert isinstance(written, list)
    return [str(line) for line in written]


def resolved(cfg: DictConfig) -> DictConfig:
    """A read-only copy of a composed config: choices filled in, Hydra's node and references gone.

    Raises:
        ConfigError: a reference leads nowhere, or to a value of another type, or a required value
            is missing.
    """
    chosen = {key: value for key, value in cfg.hydra.runtime.choices.items() if key in GROUPS}
    plain = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key not in ("hydra", "cells")])
    # Hydra lets a plus add any key to the root, where nothing would ever read it.
    known = [f.name for f in fields(Config) if f.name not in ("choices", "cells")]
    unfit = [
        Refused(key, cfg[key], f"no key {key}; {alternatives(key, known)}")
        for key in map(str, plain)
        if key not in (*known, "choices")
    ]
    rule = "a base that options are made from, no option itself"
    for group, option in chosen.items():
        if option and option.startswith("_"):
            every = ", ".join(options(group, noted(cfg, "hydra")))
            instead = f"{group}=OPTION with one of: {every}"
            unfit.append(Refused(f"{group}={option}", None, rule, instead))
    if unfit:
        raise ConfigError(unfit)
    # First, because a reference to what is missing would be named in its place.
    if missing := list(_missing(OmegaConf.to_container(plain, resolve=False))):
        raise ConfigError(
            [Refused(key, None, "a value is required", f"{key}=VALUE") for key in missing]
        )
    try:
        values = OmegaConf.to_container(plain, resolve=True)
    except OmegaConfBaseException as error:
        found = [*_dangling(plain)]
        if any(SIZES in str(problem.value) for problem in found):
            found = [*_without_sizes(plain, chosen)] or found
        raise ConfigError(found or [Refused("config", None, first_line(error))]) from error
    assert isinstance(values, dict)
    if isinstance(values["algo"], dict):
        values["algo"].pop(SIZES, None)  # its values are in the arguments now
    if isinstance(values["torso"], str):
        values["torso"] = str(Path(values["torso"]).absolute())  # found from any directory
    return _typed(values | {"choices": chosen})


def _typed(values: dict[Any, Any]) -> DictConfig:
    """By the schema: a reference, as to a variable of the environment, may have led to a text."""
    try:
        cfg = OmegaConf.merge(OmegaConf.structured(Config), values)
    except OmegaConfBaseException as error:
        key = str(getattr(error, "full_key", ""))
        raise ConfigError([wrong_value(key, getattr(error, "value", None), error)]) from error
    assert isinstance(cfg, DictConfig)
    cfg = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "cells"])
    OmegaConf.set_readonly(cfg, True)
    return cfg


def _missing(node: Any, prefix: str = "") -> Iterator[str]:
    """Keys without a value; those that refer to one of them are not counted."""
    if node == MISSING:
        yield prefix
    elif isinstance(node, dict):
        for key, value in node.items():
            yield from _missing(value, f"{prefix}.{key}".lstrip("."))


def _without_sizes(cfg: DictConfig, chosen: dict[Any, str | None]) -> Iterator[Refused]:
    """An algorithm that knows no sizes for the environment's family, in one line."""
    sizes, family = OmegaConf.select(cfg, f"algo.{SIZES}"), str(cfg.env.family)
    if not isinstance(sizes, DictConfig) or family in sizes:
        return
    known = ", ".join(map(str, sizes))
    fitting = [
        f"algo={file.stem}"
        for file in sorted((conf_dir() / "algo").glob("[!_]*.yaml"))
        if OmegaConf.select(OmegaConf.load(file), f"{SIZES}.{family}") is not None
    ]
    rule = f"has sizes for {known}, and env={chosen.get('env')} is {family}"
    instead = " or ".join(fitting) or f"env.family={known.partition(',')[0]}"
    yield Refused("algo", chosen.get("algo"), rule, instead)


def _dangling(node: DictConfig, prefix: str = "") -> Iterator[Refused]:
    """Every reference that leads nowhere."""
    raw = OmegaConf.to_container(node, resolve=False)
    assert isinstance(raw, dict)
    for key in map(str, node):
        if OmegaConf.is_interpolation(node, key):
            try:
                node[key]
            except OmegaConfBaseException as error:
                yield Refused(prefix + key, raw[key], first_line(error), f"{prefix}{key}=VALUE")
        elif isinstance(raw[key], dict):
            yield from _dangling(node[key], f"{prefix}{key}.")


register()
