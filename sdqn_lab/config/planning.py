"""What a command line asks for: every cell composed, validated and named before anything starts."""

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sdqn_lab import config
from sdqn_lab.config.validation import ConfigError, check_launcher, validate

QUIET_FAILURES = 20
"""After so many wrong cells in a row with nothing new to say, the rest need not be composed."""


class Cell(NamedTuple):
    """One run of a sweep."""

    path: Path
    cfg: DictConfig
    overrides: list[str]


@dataclass
class Plan:
    """The cells that a command asks for, validated."""

    multirun: bool
    cells: dict[Path, Cell]
    asked: int
    """Combinations asked for; more than cells where some of them are the same cell."""
    launcher: DictConfig
    words: list[str] = field(default_factory=list)
    """The command line for Hydra."""

    @property
    def sweep_dir(self) -> Path:
        """What the cells of a sweep lie in."""
        return next(iter(self.cells)).parent


_planned: dict[tuple[str, ...], Cell] = {}
"""What this command has composed: Hydra asks for the same cells when it launches them."""


def plan(words: list[str], args: argparse.Namespace) -> Plan:
    """Compose and validate every cell that the command line asks for.

    Args:
        words: the command line.
        args: the same, as Hydra's own parser reads it.

    Raises:
        ConfigError: everything wrong with any of them.
    """
    _planned.clear()  # files and machines change between two commands
    sweeps = [o for o in config.parse(args.overrides) if o.is_sweep_override()]
    if own := [o.input_line for o in sweeps if o.is_hydra_override()]:
        raise ConfigError([f"{line}: one value for all cells; write one" for line in own])
    common = config.compose_raw(args.overrides, RunMode.MULTIRUN if sweeps else RunMode.RUN)
    launcher = common.hydra.launcher
    check_launcher(launcher, common.hydra.runtime.choices["hydra/launcher"])
    if not (args.multirun or common.hydra.mode == RunMode.MULTIRUN):
        if sweeps:
            raise ConfigError([_needs_multirun(o.input_line or "") for o in sweeps])
        if elsewhere(launcher) and not launcher.dry_run:
            raise ConfigError(
                ["hydra/launcher=slurm: starts sweeps; write -m before the overrides"]
            )
        cfg = config.resolved(common)
        validate(cfg, here=not elsewhere(launcher))
        path = _directory(common.hydra.run, "dir", "hydra.run.dir")
        return Plan(False, {path: Cell(path, cfg, args.overrides)}, 1, launcher, words)
    # Cells would each resolve the sweep's directory from their own overrides alone.
    sweep_dir = _directory(common.hydra.sweep, "dir", "hydra.sweep.dir")
    here = not elsewhere(launcher)
    given = any(o.key_or_group == "hydra.sweep.dir" for o in config.parse(args.overrides))
    every = combinations(args.overrides, common)
    cells = plan_cells(sweep_dir, every, here)
    fixed = words if given else [*words, f"hydra.sweep.dir={sweep_dir}"]
    return Plan(True, {cell.path: cell for cell in cells}, len(every), launcher, fixed)


def combinations(overrides: list[str], common: DictConfig) -> list[list[str]]:
    """The overrides of every cell: those of the command, and the grid of a sweep's file."""
    params = OmegaConf.to_container(common.hydra.sweeper.params or OmegaConf.create({}))
    assert isinstance(params, dict)
    return config.expand([*(f"{key!s}={value}" for key, value in params.items()), *overrides])


def elsewhere(launcher: DictConfig) -> bool:
    """Whether cells are to run on other machines than this."""
    return str(launcher.get("_target_")).endswith(".SlurmLauncher")


def plan_cells(sweep_dir: Path, every: Iterable[Sequence[str]], here: bool = True) -> list[Cell]:
    """Compose, validate and name cells; each is done once in a process.

    Args:
        sweep_dir: where they are to lie.
        every: overrides of each, one value a key.
        here: they are to run on this machine.

    Returns:
        One cell for each combination; combinations that are the same cell give the same path.

    Raises:
        ConfigError: everything wrong with any of them, or two different cells in one directory.
    """
    composer, cells, problems = config.Composer(), list[Cell](), list[str]()
    by_path: dict[Path, Cell] = {}
    quiet = 0
    for overrides in every:
        if quiet > QUIET_FAILURES:
            break
        try:
            cell = _plan_cell(sweep_dir, list(overrides), composer, here)
            found = by_path.setdefault(cell.path, cell)
            if found is not cell and (other := config.difference(found.cfg, cell.cfg)):
                line = f"hydra.sweep.subdir: two cells would share {cell.path} ({other})"
                raise ConfigError([line])
            cells.append(found)
        except ConfigError as error:
            new = [problem for problem in error.problems if problem not in problems]
            problems += new
            quiet = 0 if new else quiet + 1
    if problems:
        raise ConfigError(problems)
    return cells


def _plan_cell(
    sweep_dir: Path, overrides: list[str], composer: config.Composer, here: bool
) -> Cell:
    task = [line for line in overrides if not line.startswith(("hydra.", "hydra/"))]
    key = (str(sweep_dir), *sorted(task))
    if key not in _planned:
        raw = composer.compose_raw(overrides)
        cfg = config.resolved(raw)
        validate(cfg, here)
        subdir = _directory(raw.hydra.sweep, "subdir", "hydra.sweep.subdir")
        if subdir.name != str(subdir):
            line = f"hydra.sweep.subdir={subdir}: cells lie side by side; write a name without /"
            raise ConfigError([line])
        _planned[key] = Cell(sweep_dir / subdir, cfg, task)
    return _planned[key]


def _directory(node: DictConfig, key: str, name: str) -> Path:
    try:
        return Path(str(node[key]))
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        raise ConfigError([f"{name}: {reason}; write {name}=DIR"]) from error


def _needs_multirun(override: str) -> str:
    return f"{override}: several values need a multirun; write -m before the overrides"
