"""The directories of a sweep's cells, made before anything is started."""

from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf

from sdqn_lab.config.directories import as_long_as_stored, existing_state
from sdqn_lab.config.planning import Cell
from sdqn_lab.launching.ledger import Entry, Ledger
from sdqn_lab.runs.directory import BusyError, RunDirectory
from sdqn_lab.runs.files import write_atomic


def prepare_cells(sweep_dir: Path, cells: Sequence[Cell]) -> None:
    """Make every cell's directory with its config, and list the cells in the ledger.

    A cell that another process works on, or that is finished, is left as it is.

    Raises:
        ConfigError: a directory holds something else.
        OSError: it cannot be written.
    """
    sweep_dir.mkdir(parents=True, exist_ok=True)
    ledger = Ledger.open(sweep_dir)
    for cell in cells:
        directory, name = RunDirectory(cell.path), cell.path.name
        state = existing_state("hydra.sweep.dir", directory, cell.cfg)
        # Shortened by its own command, a cell would end wherever it was stopped, and count as done.
        cfg = as_long_as_stored(directory, cell.cfg)
        ledger.cells[name] = Entry(
            overrides=cell.overrides,
            game=str(cfg.choices["env"]),
            seed=cfg.seed,
            steps=cfg.budget.steps,
        )
        if state == "finished":
            continue
        directory.path.mkdir(parents=True, exist_ok=True)
        try:
            with directory.lock():
                write_atomic(directory.config, OmegaConf.to_yaml(cfg).encode())
                if directory.state is None:
                    directory.update(state="pending", cell=name)
        except BusyError:  # the process that works on it has its config already
            continue
    ledger.write(sweep_dir)
