"""The cells of a sweep on this machine, each in a process of its own."""

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from sdqn_lab.checks.ranges import Count, Natural, check_arguments
from sdqn_lab.checks.refused import ConfigError, Refused
from sdqn_lab.commands.shell import console as new_console
from sdqn_lab.launching.ledger import Ledger, LedgerError, locked
from sdqn_lab.launching.observe import ACTIVE, forget_failure, observe, unfinished
from sdqn_lab.launching.processes import Slot, run_cells, slots, visible_gpus
from sdqn_lab.launching.queue import SlurmError
from sdqn_lab.launching.table import watching
from sdqn_lab.runs.directory import BusyError, RunDirectory, timestamp
from sdqn_lab.runs.objective import objective
from sdqn_lab.runs.stopping import PREEMPTED_EXIT, StopFlag

if TYPE_CHECKING:
    from sdqn_lab.config.planning import Cell


class LaunchError(Exception):
    """Cells could not be started."""


class CellLauncher(Launcher):
    """What launchers of cells have in common: Hydra's combinations become a sweep with a ledger."""

    config: DictConfig
    settings: dict[str, Any]
    """The arguments, as the ledger keeps them."""
    dry_run: bool

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Take the config that all cells have in common."""
        del hydra_context, task_function
        self.config = config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """What a sweeper that searches calls: run its cells, and answer with their objectives."""
        # Imported here: Hydra loads every plug-in in any program that it serves; these are slow.
        from sdqn_lab.config import noted
        from sdqn_lab.config.planning import plan_cells, runs_on_cluster

        del initial_job_idx
        sweep_dir = Path(self.config.hydra.sweep.dir)
        own = [o for o in noted(self.config, "hydra") if o.startswith("hydra.searchpath=")]
        every = [[*own, *overrides] for overrides in job_overrides]
        cells = plan_cells(sweep_dir, every, here=not runs_on_cluster(self.config.hydra.launcher))
        self.launch_cells(sweep_dir, list({cell.path: cell for cell in cells}.values()))
        # The objective of each; an exception, which Hydra raises, for one that did not finish.
        jobs = []
        for cell in cells:
            directory = RunDirectory(cell.path)
            job = JobReturn(overrides=cell.overrides, cfg=cell.cfg, status=JobStatus.COMPLETED)
            try:
                if directory.state != "finished":
                    rule = f"{directory.state}, so it has no objective"
                    raise LaunchError(f"{cell.path.name}: {rule}")
                job.return_value = objective(directory.metrics, cell.cfg.objective)
            except (LaunchError, ValueError) as error:
                job.status, job.return_value = JobStatus.FAILED, error
            jobs.append(job)
        return jobs

    def launch_cells(self, sweep_dir: Path, cells: "Sequence[Cell]") -> None:
        """Prepare cells and start those that are not finished.

        A cell's own directory says what became of it.

        Raises:
            LaunchError: they could not be started.
        """
        from sdqn_lab.launching.cells import prepare_cells  # slow, see `launch`

        sweep_dir.mkdir(parents=True, exist_ok=True)
        try:
            with locked(sweep_dir):
                prepare_cells(sweep_dir, cells)
                self.start(sweep_dir, [cell.path.name for cell in cells])
            self.wait(sweep_dir)
        except (BusyError, ConfigError, LedgerError, Refused, SlurmError, OSError) as error:
            raise LaunchError(str(error)) from error

    @abstractmethod
    def start(self, sweep_dir: Path, names: list[str]) -> None:
        """Start those of the cells that are not finished; the sweep is locked meanwhile.

        Args:
            sweep_dir: the sweep, its ledger written.
            names: names of cells.
        """

    def wait(self, sweep_dir: Path) -> None:
        """Stay while the cells work, where that is wanted."""


class LocalLauncher(CellLauncher):
    """Cells on this machine, some at once; a crash of one does not affect the others.

    Args:
        processes: cells at once. None: one per GPU; without a GPU as many as there are CPUs for
            `threads` each, or one if `threads` is None.
        gpus: how many GPUs cells are spread over; with more processes than GPUs several share one.
            None: all that are visible, or none where `device` is the CPU or names one of them.
        dry_run: only say what would run; read by the command before anything starts.

    Raises:
        ValueError: an argument is out of range.
        Refused: there are not so many GPUs.
    """

    def __init__(
        self, processes: Count | None = None, gpus: Natural | None = None, dry_run: bool = False
    ) -> None:
        check_arguments(LocalLauncher.__init__, locals())
        if gpus and gpus > (count := len(visible_gpus())):
            raise Refused("gpus", gpus, f"must be <= {count}, those visible", str(count))
        self.settings, self.dry_run = {"processes": processes, "gpus": gpus}, dry_run

    def start(self, sweep_dir: Path, names: list[str]) -> None:
        """Work through the cells until all have ended, or a signal asks to stop.

        Raises:
            SlurmError: cells may be in SLURM's queue, and SLURM does not answer.
            SystemExit: with code 143, if stopped by a signal.
        """
        console = new_console()
        # The sweep may have been submitted before: two processes cannot work on one cell.
        seen = observe(sweep_dir)
        if seen.problem:
            raise SlurmError(f"{seen.problem}; nobody knows which cells are in the queue")
        queued = {report.name for report in seen.reports if report.job and report.state in ACTIVE}
        left = unfinished(sweep_dir, names)
        todo = [name for name in left if name not in queued]
        for name in [name for name in names if name not in todo]:
            why = "in SLURM's queue" if name in left else "finished already"
            console.print(f"{name}: {why}, not touched", soft_wrap=True)
        if not todo:
            return
        ledger = Ledger.read(sweep_dir)
        ledger.submit("local", self.settings, todo, sweep_dir)
        ledger.write(sweep_dir)
        for name in todo:
            forget_failure(RunDirectory(sweep_dir / name))
        stop, paths = StopFlag(), [sweep_dir / name for name in todo]
        with stop.listening(), watching(console) as watch:

            def look(changed: bool) -> None:
                if changed or watch.due():
                    watch.show(observe(sweep_dir))

            run_cells(paths, self.shares(paths[0]), stop, look)
        # Read anew: a command that cancels writes into it meanwhile.
        ledger = Ledger.read(sweep_dir)
        ledger.submissions[-1].ended = timestamp()
        ledger.write(sweep_dir)
        if stop.requested:
            raise SystemExit(PREEMPTED_EXIT)

    def shares(self, cell: Path) -> list[Slot]:
        """Shares of this machine; all cells of a sweep have devices and threads in common."""
        from sdqn_lab.config import stored_data  # slow, see `launch`

        cfg = stored_data(cell / "config.yaml")
        any_gpu = cfg.device in ("auto", "cuda") and self.settings["gpus"] != 0
        gpus = visible_gpus()[: self.settings["gpus"]] if any_gpu else []
        return slots(self.settings["processes"], gpus, cfg.threads)
