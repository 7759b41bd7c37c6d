"""A sweep on disk: its cells' directories and its ledger."""

from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf

from sdqn_lab.config.directories import begun
from sdqn_lab.config.planning import Cell
from sdqn_lab.launching.ledger import Entry, Ledger
from sdqn_lab.runs.directory import BusyError, RunDirectory
from sdqn_lab.runs.files import write_atomic


def enroll(sweep_dir: Path, cells: Sequence[Cell]) -> Ledger:
    """Make every cell's directory with its config, and note the cells in the ledger.

    A cell that another process works on, or that is finished, is left as it is.

    Raises:
        ConfigError: a directory holds something else.
        OSError: it cannot be written.
    """
    sweep_dir.mkdir(parents=True, exist_ok=True)
    ledger = Ledger.open(sweep_dir)
    for cell in cells:
        ledger.cells[cell.path.name] = Entry(
            overrides=cell.overrides,
            game=str(cell.cfg.choices["env"]),
            seed=cell.cfg.seed,
            steps=cell.cfg.budget.steps,
        )
        _prepare(cell)
    ledger.write(sweep_dir)
    return ledger


def _prepare(cell: Cell) -> None:
    directory = RunDirectory(cell.path)
    if begun("hydra.sweep.dir", directory, cell.cfg) == "finished":
        return
    directory.path.mkdir(parents=True, exist_ok=True)
    try:
        with directory.lock():
            write_atomic(directory.config, OmegaConf.to_yaml(cell.cfg).encode())
            if directory.state is None:
                directory.update(state="pending", cell=cell.path.name)
    except BusyError:
        return
