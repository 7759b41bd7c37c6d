"""``python -m sdqn_lab.run``: one cell, a multirun over cells, or the continuation of a run.

Everything is composed and validated before Hydra is let in, so that a wrong command leaves nothing
behind.
"""

import argparse
import errno
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from sdqn_lab import config
from sdqn_lab.analysis.run import Run
from sdqn_lab.analysis.table import print_table
from sdqn_lab.cell import PREEMPTED_EXIT, run_cell
from sdqn_lab.tracking.run_directory import RunDirectory
from sdqn_lab.training.checkpoint import Checkpoint, CheckpointError
from sdqn_lab.validation import ConfigError, validate

# Names and values are shown as they are: rich would turn device=cuda:x into an emoji.


def _console(terminal: bool | None = None) -> Console:
    return Console(stderr=True, emoji=False, markup=False, highlight=False, force_terminal=terminal)


console = _console()
USAGE_ERROR = 2
ROOM_BYTES = 1 << 20
"""A directory without room for this much is full."""
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
        if any(word.partition("=")[0] == "--resume" for word in words):
            return resume(words)
        args = _arguments(words)
        if args.help or args.hydra_help or args.cfg or args.info or args.shell_completion:
            _hydra_main(words)
            return 0
        return _start(plan(words, args))
    except ConfigError as error:
        for problem in error.problems:
            console.print(f"error: {problem}", soft_wrap=True)
        return USAGE_ERROR


def _arguments(words: list[str]) -> argparse.Namespace:
    args, unknown = get_args_parser().parse_known_args(words)
    problems = [_unknown_word(word) for word in unknown]
    # What is validated here would not be what Hydra then runs.
    problems += [
        f"--{flag.replace('_', '-')}: this command has one config of its own; write overrides"
        for flag in ("config_path", "config_name", "config_dir", "experimental_rerun")
        if getattr(args, flag) is not None
    ]
    if problems:
        raise ConfigError(problems)
    return args


def _unknown_word(word: str) -> str:
    if word.startswith("-"):
        return f"{word}: no such flag; write --help for those that are there"
    return f"{word}: stands behind a flag; write flags such as -m before all overrides"


def plan(words: list[str], args: argparse.Namespace) -> Plan:
    """Compose and validate every cell that the command line asks for.

    Raises:
        ConfigError: everything wrong with any of them.
    """
    sweeps = [o for o in config.parse(args.overrides) if o.is_sweep_override()]
    common = config.compose_raw(args.overrides, RunMode.MULTIRUN if sweeps else RunMode.RUN)
    if not (args.multirun or common.hydra.mode == RunMode.MULTIRUN):
        if sweeps:
            raise ConfigError([_needs_multirun(o.input_line or "") for o in sweeps])
        validate(config.resolved(common))
        return Plan(False, [_directory(common.hydra.run, "dir", "hydra.run.dir")], words)
    # Cells would each resolve the sweep's directory from their own overrides alone.
    fixed = f"hydra.sweep.dir={_directory(common.hydra.sweep, 'dir', 'hydra.sweep.dir')}"
    given = any(o.key_or_group == "hydra.sweep.dir" for o in config.parse(args.overrides))
    directories = _plan_cells(args.overrides, common)
    return Plan(True, directories, words if given else [*words, fixed])


def _plan_cells(overrides: list[str], common: DictConfig) -> list[Path]:
    params = OmegaConf.to_container(common.hydra.sweeper.params or OmegaConf.create({}))
    assert isinstance(params, dict)
    given = {o.key_or_group for o in config.parse(overrides)}
    extra = [f"{key!s}={value}" for key, value in params.items() if key not in given]
    sweep_dir = Path(common.hydra.sweep.dir)
    directories, problems = [], []
    for cell in config.expand([*overrides, *extra]):
        try:
            raw = config.compose_raw(cell)
            validate(config.resolved(raw))
            directories.append(sweep_dir / raw.hydra.sweep.subdir)
        except ConfigError as error:
            problems += [problem for problem in error.problems if problem not in problems]
    if problems:
        raise ConfigError(problems)
    return list(dict.fromkeys(directories))


def _directory(node: DictConfig, key: str, name: str) -> Path:
    try:
        return Path(str(node[key]))
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        raise ConfigError([f"{name}: {reason}; write {name}=DIR"]) from error


def _needs_multirun(override: str) -> str:
    return f"{override}: several values need a multirun; write -m before the overrides"


def _start(planned: Plan) -> int:
    key = "hydra.sweep.dir" if planned.multirun else "hydra.run.dir"
    states = [_begun(key, RunDirectory(path)) for path in planned.directories]
    if not planned.multirun:
        answer = _answer_found(RunDirectory(planned.directories[0]), states[0])
        if answer is not None:
            return answer
    first = planned.directories[0]
    _check_writable(key, first.parent if planned.multirun else first)
    with suppress(SystemExit):
        _hydra_main(planned.words)
    return _finish(planned)


def _begun(key: str, directory: RunDirectory) -> str | None:
    """The state of the run that a directory holds, None if it holds none.

    Raises:
        ConfigError: files are there that a run would write, and they are no run's.
    """
    state = _state(directory)
    if state == "pending" and not directory.config.exists():
        return None
    written = (directory.config, directory.metrics, directory.checkpoint)
    if state is None and (foreign := [path.name for path in written if _exists(path)]):
        raise ConfigError(
            [
                f"{key}: {directory.path} holds {', '.join(foreign)} of something else; "
                f"write {key}=DIR with another directory"
            ]
        )
    return state


def _answer_found(directory: RunDirectory, state: str | None) -> int | None:
    """A single run never touches a directory that holds a run already."""
    if state is None:
        return None
    if state == "finished":
        console.print(f"{directory.path}: finished already, nothing to do", soft_wrap=True)
        return 0
    command = f"python -m sdqn_lab.run --resume {directory.path}"
    raise ConfigError(
        [f"{directory.path}: holds a run that is {state}; continue it with {command}"]
    )


def _state(directory: RunDirectory) -> str | None:
    try:
        return directory.state
    except (ValueError, OSError) as error:
        line = f"{error}; mend the file, or delete {directory.path} to run anew"
        raise ConfigError([line]) from error


def _exists(path: Path) -> bool:
    """Like ``Path.exists``, which raises where a name is too long to exist."""
    try:
        return path.exists()
    except OSError:
        return False


def _check_writable(key: str, path: Path) -> None:
    """Try on the nearest directory that exists, and leave nothing there.

    Raises:
        ConfigError: it is no directory, or read-only, or full.
    """
    absolute = path.absolute()
    home = next(folder for folder in (absolute, *absolute.parents) if _exists(folder))
    try:
        longest = max(len(os.fsencode(part)) for part in absolute.parts)
        if longest > os.pathconf(home, "PC_NAME_MAX"):
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        with tempfile.TemporaryFile(dir=home) as probe:
            probe.write(bytes(ROOM_BYTES))
    except OSError as error:
        line = f"{key}={path}: cannot be written, {home}: {error.strerror}"
        raise ConfigError([f"{line}; write {key}=DIR with a directory that has room"]) from error


def _finish(planned: Plan) -> int:
    """The exit code that the run directories tell, after a table and curves over them."""
    if planned.multirun:
        _show(planned.directories)
    states = [RunDirectory(path).state for path in planned.directories]
    if "failed" in states or None in states:
        return 1
    return PREEMPTED_EXIT if "preempted" in states else int(set(states) != {"finished"})


def _show(directories: list[Path]) -> None:
    # Imported here: plotting takes half a second to load, and most commands draw nothing.
    from sdqn_lab.analysis.curves import draw_learning_curves

    sweep_dir = directories[0].parent
    runs = [Run(path) for path in directories]
    out = Console() if sys.stdout.isatty() else Console(width=PLAIN_WIDTH)
    print_table(runs, out, f"{len(runs)} cells in {sweep_dir}")
    figure = sweep_dir / "learning_curves.png"
    if draw_learning_curves(runs, figure):
        out.print(f"learning curves: {figure}", soft_wrap=True)


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
    if directory.owner_alive():
        console.print(f"{directory.path.name}: another process works on it, not touched")
        return 1
    try:
        cfg = config.compose(list(hydra_cfg.overrides.task))
    except ConfigError as error:
        for problem in error.problems:
            console.print(f"{directory.path.name}: {problem}", soft_wrap=True)
        return 1
    code = _run_cell(cfg, directory)
    if code == PREEMPTED_EXIT:
        sys.exit(code)  # who stops a cell stops the sweep: the cells after it do not begin
    return code


def _run_cell(cfg: DictConfig, directory: RunDirectory) -> int:
    try:
        # Cells that run beside each other cannot share a terminal's live bar.
        alone = HydraConfig.get().launcher._target_.endswith("BasicLauncher")
        return run_cell(cfg, directory, console if alone else _console(terminal=False))
    except OSError as error:
        # Not even status.json could be written; the last checkpoint is whole all the same.
        console.print(f"{directory.path}: cannot be written: {error}", soft_wrap=True)
        return 1


def resume(words: list[str]) -> int:
    """Continue the run in a directory, or extend a finished one that kept its state.

    Raises:
        ConfigError: nothing to resume, or an override would change a number.
    """
    path, overrides = _resume_arguments(words)
    directory = RunDirectory(path)
    state = _state(directory)
    if state is None or not directory.config.exists():
        missing = "holds no run" if _exists(path) else "no such directory"
        raise ConfigError([f"--resume {path}: {missing}; write --resume RUN_DIR"])
    if directory.owner_alive():
        raise ConfigError([f"--resume {path}: a living process works on it; wait for its end"])
    cfg = _resumed_config(directory, overrides)
    if state == "finished" and not _extended(directory, cfg):
        console.print(f"{path}: finished already, nothing to do", soft_wrap=True)
        return 0
    validate(cfg)
    _check_checkpoint(directory)
    return _run_cell(cfg, directory)


def _check_checkpoint(directory: RunDirectory) -> None:
    checkpoint = Checkpoint(directory.checkpoint)
    if not checkpoint.exists:
        return
    try:
        checkpoint.read()
    except (CheckpointError, KeyError, TypeError) as error:
        reason = (
            str(error) if isinstance(error, CheckpointError) else f"{checkpoint.folder}: damaged"
        )
        line = f"{reason}; put the file back, or delete {checkpoint.folder} to run anew"
        raise ConfigError([line]) from error


def _resume_arguments(words: list[str]) -> tuple[Path, list[str]]:
    parser = argparse.ArgumentParser(prog="python -m sdqn_lab.run", add_help=False)
    parser.add_argument("--resume", metavar="RUN_DIR", type=Path, nargs="?")
    parser.add_argument("overrides", nargs="*")
    args, unknown = parser.parse_known_intermixed_args(words)
    problems = [f"{word}: no flag that goes with --resume; write overrides" for word in unknown]
    if args.resume is None:
        problems.append("--resume: which run? write --resume RUN_DIR")
    if problems:
        raise ConfigError(problems)
    return args.resume, args.overrides


def _resumed_config(directory: RunDirectory, overrides: list[str]) -> DictConfig:
    stored = _stored_config(directory)
    changed, problems = stored.copy(), []
    for override in config.parse(overrides):
        try:
            _change(changed, override)
        except ConfigError as error:
            problems += error.problems
    problems += _changed_numbers(stored, changed)
    if problems:
        raise ConfigError(problems)
    return changed


def _stored_config(directory: RunDirectory) -> DictConfig:
    """The run's own config, typed again by the schema."""
    try:
        stored = OmegaConf.merge(
            OmegaConf.structured(config.Config), OmegaConf.load(directory.config)
        )
        assert isinstance(stored, DictConfig)
        config.identity(stored)
    except Exception as error:  # whatever a damaged or foreign file may cause
        reason = str(error).splitlines()[0]
        line = f"{directory.config}: not the config of a run ({reason}); put the file back"
        raise ConfigError([line]) from error
    return stored


def _change(cfg: DictConfig, override: Override) -> None:
    """Apply one override to a stored config.

    Raises:
        ConfigError: it is not one value for a key that is there.
    """
    key, line = override.key_or_group, override.input_line
    if override.is_sweep_override():
        raise ConfigError([f"{line}: a resumed run is one run; write one value"])
    if key == "tracker":
        chosen = config.resolved(config.compose_raw([line or ""]))
        cfg.tracker, cfg.choices.tracker = chosen.tracker, chosen.choices.tracker
        return
    if key in config.GROUPS:
        own = f"{key}={cfg.choices.get(key)}"
        raise ConfigError(
            [f"{line}: a resumed run keeps {own}; write a command for a run of its own"]
        )
    parent, _, name = key.rpartition(".")
    node = OmegaConf.select(cfg, parent) if parent else cfg
    if not isinstance(node, DictConfig) or name not in node:
        keys = ", ".join(map(str, node)) if isinstance(node, DictConfig) else "none"
        raise ConfigError([f"{line}: no key {name}; keys: {keys}"])
    try:
        OmegaConf.update(cfg, key, override.value())
    except OmegaConfBaseException as error:
        raise ConfigError([config.explain_value(override, error)]) from error


def _changed_numbers(stored: DictConfig, changed: DictConfig) -> list[str]:
    before, after = config.flat_identity(stored), config.flat_identity(changed)
    problems = [
        f"{key}={after[key]}: would change the run's numbers (it began with {before[key]}); "
        "write a command for a run of its own"
        for key in before
        if before[key] != after[key] and key != "budget.steps"
    ]
    if changed.budget.steps < stored.budget.steps:
        problems.append(
            f"budget.steps={changed.budget.steps}: a run cannot get shorter than it was; "
            f"write budget.steps={stored.budget.steps} or more"
        )
    return problems


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
    # A launcher's workers import the task from its module; from here it would be `__main__`'s.
    from sdqn_lab.run import main as importable_main

    sys.exit(importable_main())
