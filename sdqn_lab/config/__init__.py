"""Configs: schema, composition, identity, validation, planning."""

from sdqn_lab.config.composition import Composer, compose, compose_raw, register, resolved
from sdqn_lab.config.identity import (
    NEUTRAL,
    cell_name,
    difference,
    flat_identity,
    identity,
    sweep_name,
)
from sdqn_lab.config.messages import explain_value
from sdqn_lab.config.overrides import expand, parse
from sdqn_lab.config.schema import CHOOSING, GROUPS, Config, conf_dir
from sdqn_lab.config.stored import resume_command, stored_config, stored_data
from sdqn_lab.config.validation import ConfigError

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
    "difference",
    "expand",
    "explain_value",
    "flat_identity",
    "identity",
    "parse",
    "register",
    "resolved",
    "resume_command",
    "stored_config",
    "stored_data",
    "sweep_name",
]
