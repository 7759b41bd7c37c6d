"""``python -m sdqn_lab.run``: one cell, a multirun over cells, or the continuation of a run.

Everything is composed and validated before Hydra is let in, so that a wrong command leaves nothing behind.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from sdqn_lab import config
from sdqn_lab.cell import PREEMPTED_EXIT, run_cell
from sdqn_lab.analysis.curves import draw_learning_curves
from sdqn_lab.analysis.table import Run, print_table
from sdqn_lab.tracking.run_directory import RunDirectory
from sdqn_lab.training.checkpoint import Checkpoint, CheckpointError
from sdqn_lab.validation import ConfigError

console = Console(stderr=True)
USAGE_ERROR = 2
PLAIN_WIDTH = 160
"""Columns of a table that goes into a file or a pipe."""


class Plan(NamedTuple):
    """The cells that a command asks for, validated."""

    multirun: bool
    directories: list[Path]
    words: list[str]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        if "--resume" in words:
            return resume(words)
        args = get_args_parser().parse_args(words)
        if args.help or args.hydra_help or args.cfg or args.info or args.shell_completion:
            _hydra_main(words)
            return 0
        return _start(plan(words, args))
    except ConfigError as error:
        for problem in error.problems:
            console.print(f"error: {problem}", soft_wrap=True, markup=False, highlight=False)
        return USAGE_ERROR


def plan(words: list[str], args: argparse.Namespace) -> Plan:
    """Compose and validate every cell that the command line asks for.

    Raises:
        ConfigError: everything wrong with any of them.
    """
    sweeps = [o for o in config.parse(args.overrides) if o.is_sweep_override()]
    common = config.compose_raw(args.overrides, RunMode.MULTIRUN)
    if not (args.multirun or common.hydra.mode == RunMode.MULTIRUN):
        if sweeps:
            raise ConfigError([_needs_multirun(o.input_line or "") for o in sweeps])
        common = config.compose_raw(args.overrides)
        cell = config.resolved(common)
        config.validate(cell)
        return Plan(False, [Path(common.hydra.run.dir)], words)
    # Cells would each resolve the sweep's directory from their own overrides alone.
    fixed = f"hydra.sweep.dir={common.hydra.sweep.dir}"
    given = any(o.key_or_group == "hydra.sweep.dir" for o in config.parse(args.overrides))
    directories = _plan_cells(args.overrides, common)
    return Plan(True, directories, words if given else [*words, fixed])


def _plan_cells(overrides: list[str], common: DictConfig) -> list[Path]:
    params = OmegaConf.to_container(common.hydra.sweeper.params or OmegaConf.create({}))
    assert isinstance(params, dict)
    given = {o.key_or_group for o in config.parse(overrides)}
    extra = [f"{key}={value}" for key, value in params.items() if key not in given]
    sweep_dir = Path(common.hydra.sweep.dir)
    directories, problems = [], []
    for cell in config.expand([*overrides, *extra]):
        try:
            raw = config.compose_raw(cell)
            config.validate(config.resolved(raw))
            directories.append(sweep_dir / raw.hydra.sweep.subdir)
        except ConfigError as error:
            problems += [problem for problem in error.problems if problem not in problems]
    if problems:
        raise ConfigError(problems)
    return list(dict.fromkeys(directories))


def _needs_multirun(override: str) -> str:
    return f"{override}: several values need a multirun; write -m before the overrides"


def _start(planned: Plan) -> int:
    if not planned.multirun:
        answer = _answer_found(RunDirectory(planned.directories[0]))
        if answer is not None:
            return answer
    _hydra_main(planned.words)
    return _finish(planned)


def _answer_found(directory: RunDirectory) -> int | None:
    """A single run never touches a directory that holds a run already."""
    state = _state(directory)
    if state is None:
        taken = [p for p in (directory.config, directory.metrics) if p.exists()]
        if taken:
            raise ConfigError([f"hydra.run.dir={directory.path}: {taken[0].name} is there already"])
        return None
    if state == "finished":
        console.print(f"{directory.path}: finished already, nothing to do", soft_wrap=True)
        return 0
    command = f"python -m sdqn_lab.run --resume {directory.path}"
    raise ConfigError([f"{directory.path}: holds a run that is {state}; continue it with {command}"])


def _state(directory: RunDirectory) -> str | None:
    try:
        return directory.state
    except ValueError as error:
        raise ConfigError([str(error)]) from error


def _finish(planned: Plan) -> int:
    """The exit code that the run directories tell, after a table and curves over them."""
    if planned.multirun:
        _show(planned.directories)
    states = [RunDirectory(path).state for path in planned.directories]
    if "failed" in states or None in states:
        return 1
    return PREEMPTED_EXIT if "preempted" in states else int(set(states) != {"finished"})


def _show(directories: list[Path]) -> None:
    sweep_dir = directories[0].parent
    runs = [Run(path) for path in directories]
    out = Console() if sys.stdout.isatty() else Console(width=PLAIN_WIDTH)
    print_table(runs, out, f"{len(runs)} cells in {sweep_dir}")
    figure = sweep_dir / "learning_curves.png"
    if draw_learning_curves(runs, figure):
        out.print(f"learning curves: {figure}", soft_wrap=True)


def _hydra_main(words: list[str]) -> None:
    sys.argv[1:] = words
    hydra.main(version_base="1.3", config_path=str(config.conf_dir()), config_name="config")(_task)()


def _task(_: DictConfig) -> int:
    """What Hydra calls for each cell; the verdict is in the run directory, never in an exception."""
    hydra_cfg = HydraConfig.get()
    directory = RunDirectory(hydra_cfg.runtime.output_dir)
    state = directory.state
    if state == "finished":
        console.print(f"{directory.path.name}: finished already, not touched", soft_wrap=True)
        return 0
    if directory.owner_alive():
        console.print(f"{directory.path.name}: another process works on it, not touched")
        return 1
    return run_cell(config.compose(list(hydra_cfg.overrides.task)), directory, console)


def resume(words: list[str]) -> int:
    """Continue the run in a directory, or extend a finished one that kept its state.

    Raises:
        ConfigError: nothing to resume, or an override would change a number.
    """
    path, overrides = _resume_arguments(words)
    directory = RunDirectory(path)
    state = _state(directory)
    if state is None or not directory.config.exists():
        raise ConfigError([f"--resume {path}: no run is there"])
    if directory.owner_alive():
        raise ConfigError([f"--resume {path}: a living process works on it"])
    cfg = _resumed_config(directory, overrides)
    if state == "finished" and not _extended(directory, cfg):
        console.print(f"{path}: finished already, nothing to do", soft_wrap=True)
        return 0
    try:
        if Checkpoint(directory.checkpoint).exists:
            Checkpoint(directory.checkpoint).read()
    except CheckpointError as error:
        raise ConfigError([str(error)]) from error
    config.validate(cfg)
    return run_cell(cfg, directory, console)


def _resume_arguments(words: list[str]) -> tuple[Path, list[str]]:
    parser = argparse.ArgumentParser(prog="python -m sdqn_lab.run", add_help=False)
    parser.add_argument("--resume", metavar="RUN_DIR", type=Path)
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_intermixed_args(words)
    return args.resume, args.overrides


def _resumed_config(directory: RunDirectory, overrides: list[str]) -> DictConfig:
    stored = OmegaConf.load(directory.config)
    assert isinstance(stored, DictConfig)
    changed = stored.copy()
    for override in config.parse(overrides):
        key = override.key_or_group
        if OmegaConf.select(stored, key, default=config.MISSING) == config.MISSING:
            raise ConfigError([f"{override.input_line}: no such key in {directory.config}"])
        if key in config.GROUPS:
            raise ConfigError([f"{override.input_line}: a resumed run keeps its options"])
        OmegaConf.update(changed, key, override.value())
    _refuse_changed_numbers(stored, changed)
    return changed


def _refuse_changed_numbers(stored: DictConfig, changed: DictConfig) -> None:
    before, after = config.flat_identity(stored), config.flat_identity(changed)
    problems = [
        f"{key}={after[key]}: would change the run's numbers (it began with {before[key]}); "
        "start a run of its own"
        for key in before
        if before[key] != after[key] and key != "budget.steps"
    ]
    if changed.budget.steps < stored.budget.steps:
        problems.append(
            f"budget.steps={changed.budget.steps}: a run cannot get shorter than it was "
            f"({stored.budget.steps})"
        )
    if problems:
        raise ConfigError(problems)


def _extended(directory: RunDirectory, cfg: DictConfig) -> bool:
    stored = OmegaConf.load(directory.config)
    if cfg.budget.steps == stored.budget.steps:
        return False
    if not Checkpoint(directory.checkpoint).exists:
        raise ConfigError(
            [
                f"budget.steps={cfg.budget.steps}: {directory.path} dropped its state when it "
                "finished; runs started with keep_state=true can be extended"
            ]
        )
    return True


if __name__ == "__main__":
    os.environ.setdefault("HYDRA_FULL_ERROR", "0")
    sys.exit(main())
