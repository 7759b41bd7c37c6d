"""Configs: schema, composition, identity, validation, planning."""

from sdqn_lab.checks.refused import ConfigError
from sdqn_lab.config.composition import (
    Composer,
    compose,
    compose_raw,
    noted,
    register,
    resolved,
    sweep_name,
)
from sdqn_lab.config.identity import (
    NEUTRAL,
    cell_name,
    difference,
    flat_identity,
    identity,
)
from sdqn_lab.config.overrides import config_loader, expand, parse
from sdqn_lab.config.schema import CHOOSING, GROUPS, Config, conf_dir
from sdqn_lab.config.stored import resume_command, stored_config, stored_data

__all__ = [
    "CHOOSING",
    "GROUPS",
    "NEUTRAL",
    "Composer",
    "Config",
    "ConfigError",
    "cell_name",
    "compose",
    "compose_raw",
    "conf_dir",
    "config_loader",
    "difference",
    "expand",
    "flat_identity",
    "identity",
    "noted",
    "parse",
    "register",
    "resolved",
    "resume_command",
    "stored_config",
    "stored_data",
    "sweep_name",
]
