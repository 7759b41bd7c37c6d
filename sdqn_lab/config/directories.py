"""What a command finds in the directories that it wants to write to."""

import errno
import os
import tempfile
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from sdqn_lab.checks.refused import ConfigError, Refused
from sdqn_lab.config.identity import difference
from sdqn_lab.config.stored import stored_data
from sdqn_lab.runs.directory import RunDirectory

MIN_FREE_BYTES = 1 << 20
"""A directory without room for this much is full."""


def existing_state(key: str, directory: RunDirectory, cfg: DictConfig) -> str | None:
    """The state of the run that a directory holds, None if it holds none.

    Args:
        key: the setting that names the directory, for messages.
        directory: where a run is to be.
        cfg: that run's config.

    Raises:
        ConfigError: files are there that a run would write and they are no run's, or another run's.
    """
    state = state_of(directory)
    if state == "pending" and not directory.config.exists():
        return None
    written = (directory.config, directory.metrics, directory.checkpoint)
    foreign = [path.name for path in written if state is None and exists(path)]
    if foreign == [directory.config.name] and not _other_run(directory, cfg):
        return None  # what version control keeps of a cell that is yet to run
    other = _other_run(directory, cfg) if state is not None else None
    if foreign or other:
        what = f"{', '.join(foreign)} of something else" if foreign else f"another run ({other})"
        rule = f"{directory.path} holds {what}"
        raise ConfigError([Refused(key, None, rule, f"{key}=DIR with another directory")])
    return state


def _other_run(directory: RunDirectory, cfg: DictConfig) -> str | None:
    """How the stored run differs from the one asked for, None where it is the same."""
    if not directory.config.exists():
        return None
    try:
        if directory.config.read_text() == OmegaConf.to_yaml(cfg):  # reading YAML takes its time
            return None
        stored = stored_data(directory.config)
        if isinstance(stored.budget.steps, int) and stored.budget.steps > cfg.budget.steps:
            stored.budget.steps = cfg.budget.steps  # a run that was made longer is the same run
        return difference(stored, cfg)
    except Exception as error:  # whatever a damaged file may cause
        return f"its config.yaml cannot be read: {str(error).splitlines()[0]}"


def as_long_as_stored(directory: RunDirectory, cfg: DictConfig) -> DictConfig:
    """A run's config with the steps that it was given since: `cfg` itself, or a longer one.

    Args:
        directory: holds this run, or none; see `existing_state`.
        cfg: what the command asks for.
    """
    if not directory.config.exists() or directory.config.read_text() == OmegaConf.to_yaml(cfg):
        return cfg
    steps = stored_data(directory.config).budget.steps
    if steps <= cfg.budget.steps:
        return cfg
    longer = cfg.copy()
    OmegaConf.set_readonly(longer, False)
    longer.budget.steps = steps
    OmegaConf.set_readonly(longer, True)
    return longer


def state_of(directory: RunDirectory) -> str | None:
    """The state of a run, None where none has begun.

    Raises:
        ConfigError: `status.json` is damaged.
    """
    try:
        return directory.state
    except (ValueError, OSError) as error:
        rule = f"mend the file, or delete {directory.path} to run anew"
        raise ConfigError([Refused(str(error), None, rule)]) from error


def exists(path: Path) -> bool:
    """Like `Path.exists`, which raises where a name is too long to exist."""
    try:
        return path.exists()
    except OSError:
        return False


def check_writable(key: str, path: Path) -> None:
    """Try on the nearest directory that exists, and leave nothing there.

    Raises:
        ConfigError: it is no directory, or read-only, or full.
    """
    absolute = path.absolute()
    home = next(folder for folder in (absolute, *absolute.parents) if exists(folder))
    try:
        longest = max(len(os.fsencode(part)) for part in absolute.parts)
        if longest > os.pathconf(home, "PC_NAME_MAX"):
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        # Written for real: a file's permissions know nothing of quotas and full disks.
        with tempfile.TemporaryFile(dir=home) as probe:
            probe.write(bytes(MIN_FREE_BYTES))
    except OSError as error:
        rule = f"cannot be written, {home}: {error.strerror}"
        instead = f"{key}=DIR with a directory that has room"
        raise ConfigError([Refused(key, str(path), rule, instead)]) from error
