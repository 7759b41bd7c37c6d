"""`--resume RUN_DIR`: which run goes on, and with which config."""

import argparse
from pathlib import Path

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sdqn_lab.checks.refused import ConfigError, Refused
from sdqn_lab.config.composition import compose_raw, resolved
from sdqn_lab.config.directories import exists, state_of
from sdqn_lab.config.identity import flat_identity, without_torso
from sdqn_lab.config.messages import wrong_type
from sdqn_lab.config.overrides import parse
from sdqn_lab.config.plugins import check_plugins
from sdqn_lab.config.schema import GROUPS
from sdqn_lab.config.stored import stored_config
from sdqn_lab.config.validation import validate
from sdqn_lab.runs.directory import RunDirectory
from sdqn_lab.runs.metrics import check_kept
from sdqn_lab.training.checkpoint import Checkpoint, CheckpointError

NEW_RUN = "a command for a run of its own"


def resumed(argv: list[str]) -> tuple[RunDirectory, DictConfig | None]:
    """What `--resume RUN_DIR [--trust] [overrides]` asks for.

    Returns:
        The run's directory and the config to go on with, None where it is finished already.

    Raises:
        ConfigError: nothing to resume, an override would change a number, the directory names code
            of others without `--trust`, or it is damaged.
    """
    path, overrides, trust = _arguments(argv)
    directory = RunDirectory(path)
    state, checkpoint = state_of(directory), Checkpoint(directory.checkpoint)
    if state is None or not directory.config.exists():
        missing = "holds no run" if exists(path) else "no such directory"
        raise ConfigError([Refused(f"--resume {path}", None, missing, "--resume RUN_DIR")])
    stored = stored_config(directory.config, trust)
    cfg = _changed(stored, overrides)
    if state == "finished":
        if cfg.budget.steps == stored.budget.steps:
            return directory, None
        if not checkpoint.exists:
            rule = (
                f"{path} dropped its state when it finished; "
                "runs started with keep_state=true can be extended"
            )
            raise ConfigError([Refused("budget.steps", cfg.budget.steps, rule)])
    # A run that has saved something holds its torso itself.
    cfg_now = without_torso(cfg) if directory.saved_steps else cfg
    if cfg_now.torso is not None and not trust:
        rule = f"{directory.config} names another run, which continuing would read"
        raise ConfigError([Refused(f"torso={cfg_now.torso}", None, rule, "--trust if you know it")])
    validate(cfg_now)
    # Looked at before anything starts: damage found later would be a run that failed.
    try:
        facts = checkpoint.read()
        check_kept(directory.metrics, facts.get("offset", 0), facts.get("metrics_sha256"))
    except (CheckpointError, ValueError) as error:
        file, _, fault = str(error).partition(": ")
        rule = f"{fault}; put the file back, or delete {checkpoint.folder} to run anew"
        raise ConfigError([Refused(file, None, rule)]) from error
    return directory, cfg


def _arguments(argv: list[str]) -> tuple[Path, list[str], bool]:
    parser = argparse.ArgumentParser(prog="python -m sdqn_lab.run", add_help=False)
    parser.add_argument("--resume", metavar="RUN_DIR", type=Path, nargs="?")
    parser.add_argument("--trust", action="store_true")
    parser.add_argument("overrides", nargs="*")
    args, unknown = parser.parse_known_intermixed_args(argv)
    rule = "no flag that goes with --resume"
    problems = [Refused(word, None, rule, "overrides") for word in unknown]
    if args.resume is None:
        problems.append(Refused("--resume", None, "which run? write --resume RUN_DIR"))
    if problems:
        raise ConfigError(problems)
    return args.resume, args.overrides, args.trust


def _changed(stored: DictConfig, overrides: list[str]) -> DictConfig:
    """The stored config with overrides that leave the run's numbers as they are."""
    changed, problems = stored.copy(), list[Refused]()
    for override in parse(overrides):
        try:
            _change(changed, override)
        except ConfigError as error:
            problems += error.problems
    if not problems:
        check_plugins(changed)  # an override may name a class, and what follows asks it
    before, after = flat_identity(stored), flat_identity(changed)
    for key, old in before.items():
        if old != after[key] and key != "budget.steps":
            rule = f"would change the run's numbers (it began with {old}); write {NEW_RUN}"
            problems.append(Refused(key, after[key], rule))
    if changed.threads not in (None, stored.threads):
        rule = "sums depend on it, so a resumed run keeps its own; leave it out"
        problems.append(Refused("threads", changed.threads, rule))
    steps, longest = changed.budget.steps, stored.budget.steps
    if steps < longest:
        rule = "a run cannot get shorter than it was"
        problems.append(Refused("budget.steps", steps, rule, f"{longest} or more"))
    if problems:
        raise ConfigError(problems)
    return changed


def _change(cfg: DictConfig, override: Override) -> None:
    """Apply one override to a stored config.

    Raises:
        ConfigError: it is not one value for a key that is there.
    """
    key, line = override.key_or_group, override.input_line or ""
    if override.is_sweep_override():
        raise ConfigError([Refused(line, None, "a resumed run is one run", "one value")])
    if key == "tracker":
        chosen = resolved(compose_raw([line]))
        cfg.tracker, cfg.choices.tracker = chosen.tracker, chosen.choices.tracker
        return
    if key in GROUPS:
        rule = f"a resumed run keeps {key}={cfg.choices.get(key)}"
        raise ConfigError([Refused(line, None, rule, NEW_RUN)])
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(cfg, parent) if parent else cfg
    if not isinstance(node, DictConfig) or name not in node:
        keys = ", ".join(map(str, node)) if isinstance(node, DictConfig) else "none"
        raise ConfigError([Refused(line, None, f"no key {name}; keys: {keys}")])
    try:
        OmegaConf.update(cfg, key, override.value())
    except OmegaConfBaseException as error:
        raise ConfigError([wrong_type(cfg, override, error)]) from error
