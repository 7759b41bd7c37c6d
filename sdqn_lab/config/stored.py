"""A run's `config.yaml`, read as data."""

from collections.abc import Iterator
from pathlib import Path
from shlex import quote
from typing import Any

from omegaconf import DictConfig, OmegaConf

from sdqn_lab.checks.refused import ConfigError, Refused, first_line, short
from sdqn_lab.config.foreign import outside_code, unfit_keys
from sdqn_lab.config.schema import Config
from sdqn_lab.runs.files import check_no_aliases, read
from sdqn_lab.runs.upgrade import upgraded


def stored_data(file: Path) -> DictConfig:
    """A run's `config.yaml` as plain values: nothing that it names is imported or looked up.

    Raises:
        ConfigError: damaged, of something else, or more than data.
    """
    try:
        text = read(file)
        check_no_aliases(text)
        # Unresolved, because a reference could read a variable of the reader's environment.
        plain = OmegaConf.to_container(OmegaConf.create(text.decode()), resolve=False)
        if not isinstance(plain, dict):
            raise ValueError("no keys with values")
        plain = upgraded({str(key): value for key, value in plain.items()})
        unfit = [*unfit_keys(plain), *_references(plain)]
    except Exception as error:  # whatever a damaged or foreign file may cause
        raise _no_config(file, error) from error
    if unfit:
        raise ConfigError([Refused(f"{file}: {p.key}", p.value, p.rule, p.instead) for p in unfit])
    return OmegaConf.create(plain)


def stored_config(file: Path, trust: bool) -> DictConfig:
    """A run's `config.yaml`, typed again by the schema; the one door for those that are acted on.

    A run directory may come from anywhere, so its config is data: it may name classes of this
    package, if they are of the kind that their group stands for, and those of other packages,
    whose import alone runs code, only if the user says so. What the user writes himself needs no
    such permission: neither a command's overrides, nor the cells of a multirun, which launchers
    start with `--trust` after writing what was composed, or comparing it with what is stored.

    Args:
        file: the config.
        trust: the user has written `--trust` or `trust=True`.

    Raises:
        ConfigError: damaged, of something else, more than data, a class of another kind, or code
            of others without trust.
    """
    # Imported here: it knows every class, and reading a config as data must not load torch.
    from sdqn_lab.config.plugins import check_plugins

    cfg = stored_data(file)
    try:
        typed = OmegaConf.merge(OmegaConf.structured(Config), cfg)
        assert isinstance(typed, DictConfig)
        typed = OmegaConf.masked_copy(typed, [str(key) for key in typed if key != "cells"])
        if missing := sorted(OmegaConf.missing_keys(typed)):
            raise ValueError(f"no value for {', '.join(missing)}")
        outside = outside_code(typed)
    except Exception as error:
        raise _no_config(file, error) from error
    # Before `check_plugins`, which imports what is named: an import alone runs code.
    if outside and not trust:
        rule = f"{file} names code from outside sdqn_lab, and opening the run would run it"
        instead = "--trust (sdqn_lab.load: trust=True) if you know it"
        raise ConfigError(
            [Refused(f"{k}={short(value)}", None, rule, instead) for k, value in outside.items()]
        )
    check_plugins(typed)
    return typed


def _no_config(file: Path, error: Exception) -> ConfigError:
    rule = f"not the config of a run ({short(first_line(error))}); put the file back"
    return ConfigError([Refused(str(file), None, rule)])


def _references(node: dict[Any, Any] | list[Any], prefix: str = "") -> Iterator[Refused]:
    """A run stores what references led to; one that is there could read what is not the run's."""
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        name = f"{prefix}{key}"
        if isinstance(value, dict | list):
            yield from _references(value, f"{name}.")
        elif isinstance(value, str) and "${" in value:
            rule = "a stored config holds no references; write the value"
            yield Refused(f"{name}={short(value)}", None, rule)


def resume_command(path: Path, cfg: DictConfig) -> str:
    """What continues a run; the user who began it knows what it names."""
    trust = " --trust" if outside_code(cfg) or cfg.torso is not None else ""
    return f"python -m sdqn_lab.run --resume {quote(str(path))}{trust}"
