"""``python -m sdqn_lab.run``: one cell, a multirun over cells, or the continuation of a run.

Everything is composed and validated before Hydra is let in, so that a wrong command leaves nothing
behind.
"""

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig
from rich.console import Console

from sdqn_lab import config
from sdqn_lab.analysis.run import Run
from sdqn_lab.analysis.table import print_table
from sdqn_lab.config.directories import begun, check_writable
from sdqn_lab.config.planning import Plan, combinations, plan
from sdqn_lab.config.validation import ConfigError
from sdqn_lab.launching.ledger import FILE as LEDGER
from sdqn_lab.launching.local import LaunchError
from sdqn_lab.launching.observe import Observation, observe
from sdqn_lab.launching.table import notes
from sdqn_lab.runs.directory import BusyError, RunDirectory
from sdqn_lab.runs.stopping import BUSY_EXIT, INTERRUPTED, PREEMPTED_EXIT
from sdqn_lab.training.cell import run_cell
from sdqn_lab.training.resume import resumed


def _console(terminal: bool | None = None) -> Console:
    # Names and values are shown as they are: rich would turn device=cuda:x into an emoji.
    return Console(stderr=True, emoji=False, markup=False, highlight=False, force_terminal=terminal)


console = _console()
USAGE_ERROR = 2
PLAIN_WIDTH = 160
"""Columns of a table that goes into a file or a pipe."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a table has signs that not every encoding knows
            stream.reconfigure(errors="replace")
    try:
        if any(word.partition("=")[0] == "--resume" for word in words):
            return _resume(words)
        words = _with_search_path(words)
        args = _arguments(words)
        if args.help or args.hydra_help or args.cfg or args.info or args.shell_completion:
            _hydra_main(_of_one_cell(words, args))
            return 0
        return _start(plan(words, args))
    except ConfigError as error:
        for problem in error.problems:
            console.print(f"error: {problem}", soft_wrap=True)
        return USAGE_ERROR
    except KeyboardInterrupt:
        console.print("interrupted")
        return INTERRUPTED


def _arguments(words: list[str]) -> argparse.Namespace:
    args, unknown = get_args_parser().parse_known_args(words)
    problems = [_unknown_word(word) for word in unknown]
    # What is validated here would not be what Hydra then runs.
    problems += [
        f"--{flag.replace('_', '-')}: this command has one config of its own; write overrides"
        for flag in ("config_path", "config_name", "experimental_rerun")
        if getattr(args, flag) is not None
    ]
    if problems:
        raise ConfigError(problems)
    return args


def _with_search_path(words: list[str]) -> list[str]:
    """Hydra's ``--config-dir`` as the override that means the same, and that cells can be given."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config-dir", "-cd", nargs="?", const="", default=None)
    args, others = parser.parse_known_args(words)
    folder = args.config_dir
    if folder is None:
        return words
    if not folder or not Path(folder).is_dir():
        line = f"--config-dir {folder}".rstrip()
        raise ConfigError([f"{line}: no such directory; write --config-dir DIR"])
    if any(word.startswith("hydra.searchpath=") for word in others):
        line = "--config-dir: is a hydra.searchpath of one; write both directories there"
        raise ConfigError([line])
    path = str(Path(folder).resolve()).replace("'", r"\'")
    own = f"hydra.searchpath=['file://{path}']"
    # Where the overrides begin: Hydra takes none behind a flag that follows them.
    first = next((i for i, word in enumerate(others) if "=" in word and word[0] != "-"), None)
    at = len(others) if first is None else first
    return [*others[:at], own, *others[at:]]


def _of_one_cell(words: list[str], args: argparse.Namespace) -> list[str]:
    """What Hydra shows of a config it shows of one: of a multirun the first cell's."""
    if not (args.cfg and args.multirun):
        return words
    flags = [word for word in words if word not in (*args.overrides, "-m", "--multirun")]
    common = config.compose_raw(args.overrides, RunMode.MULTIRUN)
    return [*flags, *combinations(args.overrides, common)[0]]


def _unknown_word(word: str) -> str:
    if word.startswith("-"):
        return f"{word}: no such flag; write --help for those that are there"
    return f"{word}: stands behind a flag; write flags such as -m before all overrides"


def _start(planned: Plan) -> int:
    if planned.launcher.get("dry_run"):
        return _dry_run(planned)
    key = "hydra.sweep.dir" if planned.multirun else "hydra.run.dir"
    states = [begun(key, RunDirectory(cell.path), cell.cfg) for cell in planned.cells.values()]
    first = next(iter(planned.cells))
    if not planned.multirun:
        answer = _answer_found(RunDirectory(first), states[0], planned.cells[first].cfg)
        if answer is not None:
            return answer
    check_writable(key, first.parent if planned.multirun else first)
    return _run_planned(planned)


def _run_planned(planned: Plan) -> int:
    try:
        _hydra_main(planned.words)
    except LaunchError as error:
        console.print(f"error: {error}", soft_wrap=True)
        return 1
    except SystemExit as stopped:
        if stopped.code != PREEMPTED_EXIT:
            return 1
        return _finish(planned, stopped=True)
    if planned.multirun and planned.launcher.get("wait") is False:
        return 0
    return _finish(planned)


def _dry_run(planned: Plan) -> int:
    from sdqn_lab.launching.estimate import describe

    for line in describe(planned):
        print(line)
    return 0


def _answer_found(directory: RunDirectory, state: str | None, cfg: DictConfig) -> int | None:
    """A single run never touches a directory that holds a run already."""
    if state is None:
        return None
    if state == "finished":
        console.print(f"{directory.path}: finished already, nothing to do", soft_wrap=True)
        return 0
    command = config.resume_command(directory.path, cfg)
    raise ConfigError(
        [f"{directory.path}: holds a run that is {state}; continue it with {command}"]
    )


def _finish(planned: Plan, stopped: bool = False) -> int:
    """The exit code that the run directories tell, after a table and curves over them."""
    directories = list(planned.cells)
    if planned.multirun:
        _show(directories)
    states = {RunDirectory(path).state for path in directories}
    if "failed" in states:
        return 1
    if states == {"finished"}:
        return 0
    return PREEMPTED_EXIT if stopped or "preempted" in states else 1


def _show(directories: list[Path]) -> None:
    # Imported here: plotting takes a second to load, and most commands draw nothing.
    from sdqn_lab.analysis.comparison import Comparison
    from sdqn_lab.analysis.report.learning import learning_curves

    sweep_dir = directories[0].parent
    # A launcher's ledger knows more than the cells: who was lost could not say so.
    seen = observe(sweep_dir) if (sweep_dir / LEDGER).exists() else Observation(sweep_dir, [])
    states = {report.name: report.state for report in seen.reports}
    runs = [Run(path, states.get(path.name)) for path in directories]
    out = Console() if sys.stdout.isatty() else Console(width=PLAIN_WIDTH)
    print_table(runs, out, f"{len(runs)} cells in {sweep_dir}")
    for line in notes(seen):
        console.print(line, soft_wrap=True)
    if not any(run.evaluations for run in runs):
        return
    learning_curves(Comparison(runs)).write(sweep_dir)
    out.print(f"learning curves: {sweep_dir / 'learning-curves.png'}", soft_wrap=True)
    out.print(f"the whole comparison: python -m sdqn_lab.report {sweep_dir}", soft_wrap=True)


def _hydra_main(words: list[str]) -> None:
    sys.argv[1:] = words
    hydra.main(version_base="1.3", config_path=str(config.conf_dir()), config_name="config")(
        _task
    )()


def _task(_: DictConfig) -> int:
    """What Hydra calls for each cell; the verdict is in the run directory, not in an exception."""
    hydra_cfg = HydraConfig.get()
    directory = RunDirectory(hydra_cfg.runtime.output_dir)
    state = directory.state
    if state == "finished":
        console.print(f"{directory.path.name}: finished already, not touched", soft_wrap=True)
        return 0
    try:
        # Options may come from a search path of the user's own.
        paths = [o for o in hydra_cfg.overrides.hydra if o.startswith("hydra.searchpath=")]
        cfg = config.compose([*paths, *hydra_cfg.overrides.task])
    except ConfigError as error:
        for problem in error.problems:
            console.print(f"{directory.path.name}: {problem}", soft_wrap=True)
        return 1
    # Cells that run beside each other cannot share a terminal's live bar.
    alone = hydra_cfg.mode == RunMode.RUN or hydra_cfg.launcher._target_.endswith("BasicLauncher")
    code = _run_cell(cfg, directory, console if alone else _console(terminal=False))
    if code == PREEMPTED_EXIT:
        sys.exit(code)  # who stops a cell stops the sweep: the cells after it do not begin
    return code


def _run_cell(cfg: DictConfig, directory: RunDirectory, out: Console) -> int:
    try:
        return run_cell(cfg, directory, out)
    except BusyError as error:
        out.print(str(error), soft_wrap=True)
        return BUSY_EXIT
    except OSError as error:
        # Not even status.json could be written; the last checkpoint is whole all the same.
        out.print(f"{directory.path}: cannot be written: {error}", soft_wrap=True)
        return 1


def _resume(words: list[str]) -> int:
    directory, cfg = resumed(words)
    if cfg is None:
        console.print(f"{directory.path}: finished already, nothing to do", soft_wrap=True)
        return 0
    return _run_cell(cfg, directory, console)


if __name__ == "__main__":
    # A launcher's workers import the task from its module; from here it would be `__main__`'s.
    from sdqn_lab.run import main as importable_main

    sys.exit(importable_main())
