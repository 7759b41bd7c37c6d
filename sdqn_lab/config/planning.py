"""What a command line asks for: every cell composed, validated and named before anything starts."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from hydra.core.override_parser.types import Quote, QuotedString
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sdqn_lab.checks.refused import ConfigError, Refused, first_line
from sdqn_lab.config.composition import Composer, compose_raw, resolved, several
from sdqn_lab.config.identity import difference
from sdqn_lab.config.overrides import SEARCH_PATH, expand, parse
from sdqn_lab.config.plugins import check_launcher
from sdqn_lab.config.validation import validate

MAX_REPEATED_FAILURES = 20
"""After so many wrong cells in a row with nothing new to say, the rest need not be composed."""
OF_THE_CELL = (SEARCH_PATH, "hydra.sweep.subdir")
"""Keys of Hydra without which a cell could not be composed anew, or would have another name."""


class Cell(NamedTuple):
    """One run of a sweep."""

    path: Path
    cfg: DictConfig
    overrides: list[str]


@dataclass
class Plan:
    """The cells that a command asks for, validated."""

    common: DictConfig
    """Composed, with Hydra's own node: of the one cell, or what all have in common."""
    cells: dict[Path, Cell]
    """None if a sweeper that searches is to find them."""
    asked: int
    """Combinations asked for; more than cells where some of them are the same cell."""
    multirun: bool

    @property
    def launcher(self) -> DictConfig:
        """Who starts the cells."""
        node: DictConfig = self.common.hydra.launcher
        return node

    @property
    def sweep_dir(self) -> Path:
        """What the cells of a sweep lie in."""
        return Path(self.common.hydra.sweep.dir) if self.multirun else next(iter(self.cells)).parent


def plan(overrides: list[str], multirun: bool) -> Plan:
    """Compose and validate every cell that a command line asks for.

    Args:
        overrides: the command's.
        multirun: it says `-m`; a file in `sweeps/` may say so too.

    Raises:
        ConfigError: everything wrong with any of them.
    """
    sweeps = [o for o in parse(overrides) if o.is_sweep_override()]
    # Hydra leaves such an override out in silence.
    if own := [o.input_line or "" for o in sweeps if o.is_hydra_override()]:
        raise ConfigError([Refused(line, None, "one value for all cells", "one") for line in own])
    common = compose_raw(overrides, RunMode.MULTIRUN if sweeps or multirun else RunMode.RUN)
    launcher = common.hydra.launcher
    check_launcher(launcher)
    here = not runs_on_cluster(launcher)
    if not (multirun or common.hydra.mode == RunMode.MULTIRUN):
        swept = [*(o.input_line or "" for o in sweeps), *(["cells"] if common.cells else [])]
        if swept:
            raise ConfigError([several(line) for line in swept])
        if not here and not launcher.dry_run:
            instead = "-m before the overrides"
            raise ConfigError([Refused("hydra/launcher=slurm", None, "starts sweeps", instead)])
        cfg = resolved(common)
        validate(cfg, here)
        path = _directory(common.hydra.run, "dir", "hydra.run.dir")
        return Plan(common, {path: Cell(path, cfg, overrides)}, 1, multirun=False)
    # Each cell alone would resolve the sweep's directory from its own overrides.
    sweep_dir = str(_directory(common.hydra.sweep, "dir", "hydra.sweep.dir"))
    common.hydra.sweep.dir = sweep_dir
    # For launchers of others, which compose each cell anew.
    common.hydra.overrides.hydra.append(f"hydra.sweep.dir={_quoted(sweep_dir)}")
    if common.hydra.runtime.choices["hydra/sweeper"] != "basic":
        return Plan(common, {}, 0, multirun=True)
    every = combinations(overrides, common)
    cells = plan_cells(Path(sweep_dir), every, here)
    return Plan(common, {cell.path: cell for cell in cells}, len(every), multirun=True)


def combinations(overrides: list[str], common: DictConfig) -> list[list[str]]:
    """The overrides of every cell.

    The product of what the command and a sweep's file vary, times the rows of `cells`. Where both
    vary an axis the command's values count.

    Args:
        overrides: the command's.
        common: what all cells have in common.

    Raises:
        ConfigError: an override sweeps over what cannot be counted, or a key is in a row of
            `cells` and varied, or in one row and not in another.
    """
    params = OmegaConf.to_container(common.hydra.sweeper.params or OmegaConf.create({}))
    # A row is written as overrides: one way to compose a cell is enough.
    rows = OmegaConf.to_container(common.cells)
    assert isinstance(params, dict)
    assert isinstance(rows, list)
    overrides = [line for line in overrides if not line.startswith(("cells=", "+cells="))]
    commanded: dict[str, list[str]] = {}
    for override in parse(overrides):
        commanded.setdefault(override.key_or_group, []).append(override.input_line or "")
    # What the command says of an axis replaces what the file says, in the file's order: it decides
    # which cells come first.
    given = [
        x for key, value in params.items() for x in commanded.pop(str(key), [f"{key!s}={value}"])
    ]
    given += [line for lines in commanded.values() for line in lines]
    varied = {o.key_or_group for o in parse(given)}
    for number, row in enumerate(rows):
        if twice := sorted(varied & set(row)):
            rule = f"stands in a row of cells and beside it; leave out {twice[0]} here or there"
            raise ConfigError([Refused(f"cells[{number}].{twice[0]}", row[twice[0]], rule)])
        if different := sorted(set(rows[0]) ^ set(row)):
            rule = f"every row has the same keys; write {different[0]} in each"
            raise ConfigError([Refused(f"cells[{number}]", None, rule)])
    written_rows = [[f"{key}={_written(value)}" for key, value in row.items()] for row in rows]
    return [[*cell, *row] for cell in expand(given) for row in written_rows or [[]]]


def _written(value: object) -> str:
    """As an override writes it: a list or a mapping of YAML is one of Hydra's without blanks."""
    if value is None:
        return "null"
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_written(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return f"[{','.join(map(_written, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _quoted(text: str) -> str:
    """A text as it is, or in quotes where Hydra would read a number, several values or nothing."""
    try:
        (alone,) = parse([f"key={text}"])
        plain = not alone.is_sweep_override() and alone.value() == text
        if plain and text and "\\" not in text:  # a backslash would escape what follows in a list
            return text
    except ConfigError:
        pass
    return QuotedString(text, Quote.single).with_quotes()


def runs_on_cluster(launcher: DictConfig) -> bool:
    """Whether cells are to run on other machines than this."""
    return str(launcher.get("_target_")).endswith(".SlurmLauncher")


def plan_cells(sweep_dir: Path, every: Iterable[Sequence[str]], here: bool = True) -> list[Cell]:
    """Compose, validate and name cells.

    Args:
        sweep_dir: where they are to lie.
        every: overrides of each, one value per key.
        here: they are to run on this machine.

    Returns:
        One cell for each combination; combinations that are the same cell give the same path.

    Raises:
        ConfigError: everything wrong with any of them, or two different cells in one directory.
    """
    composer, cells, problems = Composer(), list[Cell](), dict[str, Refused]()
    by_path: dict[Path, Cell] = {}
    repeated = 0
    for overrides in every:
        if repeated > MAX_REPEATED_FAILURES:
            break
        try:
            cell = _plan_cell(sweep_dir, list(overrides), composer, here)
            found = by_path.setdefault(cell.path, cell)
            if found is not cell and (other := difference(found.cfg, cell.cfg)):
                rule = f"two cells would share {cell.path} ({other})"
                raise ConfigError([Refused("hydra.sweep.subdir", None, rule)])
            cells.append(found)
        except ConfigError as error:
            new = {str(problem): problem for problem in error.problems}
            repeated = 0 if new.keys() - problems.keys() else repeated + 1
            problems |= new
    if problems:
        raise ConfigError(problems.values())
    return cells


def _plan_cell(sweep_dir: Path, overrides: list[str], composer: Composer, here: bool) -> Cell:
    raw = composer.compose_raw(overrides)
    cfg = resolved(raw)
    validate(cfg, here)
    subdir = _directory(raw.hydra.sweep, "subdir", "hydra.sweep.subdir")
    if subdir.name != str(subdir) or str(subdir) == "..":
        rule = "cells lie side by side; write a name without /"
        raise ConfigError([Refused("hydra.sweep.subdir", str(subdir), rule)])
    own = [o for o in parse(overrides) if not o.is_hydra_override()]
    own += [o for o in parse(overrides) if o.key_or_group in OF_THE_CELL]
    return Cell(sweep_dir / subdir, cfg, [o.input_line or "" for o in own])


def _directory(node: DictConfig, key: str, name: str) -> Path:
    try:
        return Path(str(node[key]))
    except OmegaConfBaseException as error:
        raise ConfigError([Refused(name, None, first_line(error), f"{name}=DIR")]) from error
