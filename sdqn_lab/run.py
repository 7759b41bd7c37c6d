"""`python -m sdqn_lab.run`: one cell, a multirun over cells, or the continuation of a run.

Everything is composed and validated once, before anything is made, so that a wrong command leaves
nothing behind. Hydra composes, and gives a job its directory, logging and callbacks.
"""

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import configure_log, run_job
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from rich.console import Console

from sdqn_lab import config
from sdqn_lab.analysis.stored_run import Run
from sdqn_lab.analysis.terminal import print_cells
from sdqn_lab.checks.refused import ConfigError, Refused
from sdqn_lab.commands import arguments, help, shown
from sdqn_lab.commands.callbacks import Callbacks
from sdqn_lab.commands.shell import answering, console, output
from sdqn_lab.config.directories import as_long_as_stored, check_writable, existing_state
from sdqn_lab.config.planning import Plan, combinations, plan
from sdqn_lab.config.validation import validate
from sdqn_lab.launching.ledger import FILE as LEDGER
from sdqn_lab.launching.local import CellLauncher, LaunchError
from sdqn_lab.launching.observe import Observation, observe
from sdqn_lab.launching.table import notes
from sdqn_lab.runs.directory import BusyError, RunDirectory
from sdqn_lab.runs.objective import objective
from sdqn_lab.runs.stopping import BUSY_EXIT, PREEMPTED_EXIT
from sdqn_lab.training.cell import run_cell
from sdqn_lab.training.resume import resumed


class CellFailedError(Exception):
    """A cell has not come to its end; what happened is in its directory."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    given = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a table has signs that not every encoding knows
            stream.reconfigure(errors="replace")
    with answering() as outcome:
        if any(each.partition("=")[0] == "--resume" for each in given):
            directory, cfg = resumed(given)
            if cfg is not None:
                return _train(cfg, directory, console())
            console().print(f"{directory.path}: finished already, nothing to do", soft_wrap=True)
            return 0
        args = arguments.parsed(given)
        if args.help:
            print(help.text(args.overrides))
            return 0
        if flags := arguments.flags(args):
            return _show(flags, args)
        planned = plan(args.overrides, args.multirun)
        if not planned.launcher.get("dry_run"):
            return _multirun(planned) if planned.multirun else _single(planned)
        # Imported here: it measures, which few commands want.
        from sdqn_lab.launching.estimate import describe

        print("\n".join(describe(planned)))
        outcome.code = 0
    return outcome.code


def _show(flags: list[str], args: argparse.Namespace) -> int:
    """Let Hydra show what it shows of a config; of a multirun the first cell's."""
    if args.shell_completion:
        shown.install_completion(args.overrides)
        return 0
    overrides = args.overrides if args.cfg or args.info else []
    if overrides and args.multirun:
        overrides = combinations(overrides, config.compose_raw(overrides, RunMode.MULTIRUN))[0]
    # Hydra would answer what is wrong in several lines.
    config.compose_raw(overrides)
    shown.show([*flags, *overrides])
    return 0


def _single(planned: Plan) -> int:
    """One cell, as a job of Hydra's; a directory that holds a run already is never touched."""
    (cell,) = planned.cells.values()
    directory = RunDirectory(cell.path)
    state = existing_state("hydra.run.dir", directory, cell.cfg)
    if state == "finished":
        console().print(f"{directory.path}: finished already, nothing to do", soft_wrap=True)
        return 0
    if state is not None:
        was = f"{state}, or was killed" if state == "running" else state
        rule = f"holds a run that is {was}; continue it with "
        rule += config.resume_command(directory.path, cell.cfg)
        raise ConfigError([Refused(str(directory.path), None, rule)])
    check_writable("hydra.run.dir", cell.path)
    # hydra.job.chdir=true would move a relative path along.
    directory = RunDirectory(cell.path.absolute())
    codes: list[int] = []

    def job(_: DictConfig) -> float | None:
        codes.append(_train(cell.cfg, directory, console()))
        return None if codes[0] else objective(directory.metrics, cell.cfg.objective)

    callbacks = Callbacks(planned.common)
    # The steps of Hydra's own `run`, less its composition: the plan has composed already.
    with config.config_loader() as loader:
        configure_log(planned.common.hydra.hydra_logging, planned.common.hydra.verbose)
        callbacks.on_run_start(config=planned.common, config_name="config")
        context = HydraContext(loader, callbacks)  # type: ignore[arg-type]
        returned = run_job(job, planned.common, "hydra.run.dir", None, context)
        callbacks.on_run_end(config=planned.common, config_name="config", job_return=returned)
    return codes[0]


def _multirun(planned: Plan) -> int:
    """All cells, by the launcher and the sweeper that are asked for."""
    sweep_dir, common, cells = planned.sweep_dir, planned.common, list(planned.cells.values())
    for cell in cells:
        existing_state("hydra.sweep.dir", RunDirectory(cell.path), cell.cfg)
    check_writable("hydra.sweep.dir", sweep_dir)
    callbacks, stopped = Callbacks(common), False
    with config.config_loader() as loader:
        configure_log(common.hydra.hydra_logging, common.hydra.verbose)
        callbacks.on_multirun_start(config=common, config_name="config")
        context: Any = HydraContext(loader, callbacks)  # type: ignore[arg-type]
        try:
            if not cells:
                sweeper = Plugins.instance().instantiate_sweeper(
                    hydra_context=context, task_function=task, config=common
                )
                sweeper.sweep(arguments=config.noted(common, "task"))
            else:
                launcher = Plugins.instance().instantiate_launcher(
                    hydra_context=context, task_function=task, config=common
                )
                sweep_dir.mkdir(parents=True, exist_ok=True)
                OmegaConf.save(common, sweep_dir / "multirun.yaml")
                if isinstance(launcher, CellLauncher):
                    # Hydra's interface hands over overrides, which would be composed again.
                    launcher.launch_cells(sweep_dir, cells)
                else:
                    # A launcher composes with Hydra's overrides of the whole command.
                    jobs = [[o for o in c.overrides if o[:5] != "hydra"] for c in cells]
                    size = common.hydra.sweeper.max_batch_size or len(jobs)
                    for begin in range(0, len(jobs), size):
                        launcher.launch(jobs[begin : begin + size], initial_job_idx=begin)
        except LaunchError as error:
            console().print(f"error: {error}", soft_wrap=True)
            return 1
        except SystemExit as stopping:
            if stopping.code != PREEMPTED_EXIT:
                raise
            stopped = True
        callbacks.on_multirun_end(config=common, config_name="config")
    if planned.launcher.get("wait") is False:
        return 0
    return _finish(sweep_dir, list(planned.cells), stopped)


def _finish(sweep_dir: Path, cells: list[Path], stopped: bool) -> int:
    """The exit code that the cells' directories say, after a table and curves over them."""
    # A sweeper that searched knows its cells alone; here are their directories.
    directories = cells or [path.parent for path in sorted(sweep_dir.glob("*/status.json"))]
    # A launcher's ledger knows more than the cells: a lost cell could not write that it is lost.
    seen = observe(sweep_dir) if (sweep_dir / LEDGER).exists() else Observation(sweep_dir, [])
    reported = {report.name: report.state for report in seen.reports}
    runs = [Run(path, reported.get(path.name)) for path in directories]
    print_cells(runs, output(), f"{len(runs)} cells in {sweep_dir}")
    for line in notes(seen):
        console().print(line, soft_wrap=True)
    if any(run.evaluations for run in runs):
        # Imported here: plotting takes a second to load, and most commands draw nothing.
        from sdqn_lab.analysis.comparison import Comparison
        from sdqn_lab.analysis.sections.learning_curves import curves_over_steps

        curves_over_steps(Comparison(runs)).write(sweep_dir)
        output().print(f"learning curves: {sweep_dir / 'learning-curves.png'}", soft_wrap=True)
        line = f"the whole comparison: python -m sdqn_lab.report {quote(str(sweep_dir))}"
        output().print(line, soft_wrap=True)
    states = {RunDirectory(path).state for path in directories}
    if "failed" in states:
        return 1
    if states == {"finished"}:
        return 0
    return PREEMPTED_EXIT if stopped or "preempted" in states else 1


def task(cfg: DictConfig) -> float:
    """A job of Hydra's own launchers, here or in a process of theirs; returns the objective.

    Raises:
        CellFailedError: the cell failed.
        SystemExit: with code 143, if stopped by a signal: the cells after it do not begin.
    """
    own = HydraConfig.get()
    directory = RunDirectory(own.runtime.output_dir)
    name = directory.path.name
    with open_dict(cfg):
        cfg.hydra = own
    cfg = config.resolved(cfg)
    if existing_state("hydra.sweep.dir", directory, cfg) == "finished":
        console().print(f"{name}: finished already, not touched", soft_wrap=True)
        return objective(directory.metrics, cfg.objective)
    cfg = as_long_as_stored(directory, cfg)
    validate(cfg)
    # Cells that run beside each other cannot share a terminal's live bar.
    alone = own.launcher._target_.endswith("BasicLauncher")
    code = _train(cfg, directory, console() if alone else console(terminal=False))
    if code == PREEMPTED_EXIT:
        sys.exit(code)
    if code:
        raise CellFailedError(f"{name}: see {directory.path}/log.txt and status.json")
    return objective(directory.metrics, cfg.objective)


def _train(cfg: DictConfig, directory: RunDirectory, out: Console) -> int:
    try:
        command = config.resume_command(directory.path, cfg)
        return run_cell(cfg, directory, out, continue_with=command)
    except BusyError as error:
        out.print(str(error), soft_wrap=True)
        return BUSY_EXIT
    except OSError as error:
        # Not even status.json could be written; the last checkpoint is whole all the same.
        out.print(f"{directory.path}: cannot be written: {error}", soft_wrap=True)
        return 1


if __name__ == "__main__":
    # A launcher's workers import the task from its module; from here it would be `__main__`'s.
    from sdqn_lab.run import main as importable_main

    sys.exit(importable_main())
