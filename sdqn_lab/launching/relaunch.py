"""Start again those cells of a sweep that nobody works on and that are not finished."""

from pathlib import Path
from typing import Any

from hydra.utils import get_class
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sdqn_lab.checks.refused import ConfigError, Refused
from sdqn_lab.commands.shell import output
from sdqn_lab.config.composition import compose_raw, resolved
from sdqn_lab.config.directories import state_of
from sdqn_lab.config.foreign import outside_code
from sdqn_lab.config.overrides import parse
from sdqn_lab.config.planning import plan_cells
from sdqn_lab.config.plugins import check_launcher
from sdqn_lab.config.stored import stored_config, stored_data
from sdqn_lab.config.validation import validate
from sdqn_lab.launching import queue
from sdqn_lab.launching.cells import prepare_cells
from sdqn_lab.launching.ledger import Ledger, Submission, locked
from sdqn_lab.launching.local import CellLauncher
from sdqn_lab.launching.observe import ACTIVE, STARTABLE, observe
from sdqn_lab.launching.table import summary
from sdqn_lab.runs.directory import RunDirectory
from sdqn_lab.runs.files import write_atomic

STEPS = "budget.steps"
SHELL = ("setup", "additional_parameters")
"""Settings of a launcher that go into a job's script as they are."""


def relaunch(sweep_dir: Path, overrides: list[str], trust: bool = False) -> int:
    """Start what is missing, failed, stopped or lost.

    Args:
        sweep_dir: the sweep.
        overrides: `hydra/launcher=NAME` and `hydra.launcher.KEY=VALUE`; what is not named stays as
            it was at the last start. `budget.steps=N` makes the sweep longer: cells that are
            finished and kept their state go on.
        trust: import what the cells' configs name outside this package.

    Returns:
        The exit code: 0 if nothing is wrong in the end.

    Raises:
        ConfigError: an override is no launcher's, a cell's `status.json` is damaged, a cell whose
            directory is gone cannot be composed again; or, without `trust`, one names code of
            others, or the ledger has commands for a shell.
        LedgerError: no ledger.
        SlurmError: SLURM does not answer, so nobody knows what is running.
        SystemExit: with code 143, if stopped by a signal.
    """
    ledger = Ledger.read(sweep_dir)
    longer = [line for line in overrides if line.startswith(f"{STEPS}=")]
    launcher = last_launcher(ledger, [o for o in overrides if o not in longer], trust)
    # Looked at under the lock: what another command is starting now is not lost.
    with locked(sweep_dir):
        seen = observe(sweep_dir)
        if seen.problem:
            raise queue.SlurmError(f"{seen.problem}; nobody knows what is running, so try again")
        names = seen.names((*STARTABLE, *(["finished"] if longer else [])))
        if longer and (busy := seen.count(*ACTIVE)):
            rule = f"{busy} cells are at work or in the queue, and would keep their length"
            raise Refused(longer[-1], None, f"{rule}; wait for them, or cancel the sweep")
        if not trust:
            _check_code(sweep_dir, ledger, names)
        if launcher.dry_run:
            if longer:
                _extend(sweep_dir, ledger, names, longer[-1], dry_run=True)
            print("\n".join([f"would start {len(names)} cells", *names]))
            return 0
        if names:
            _restore(sweep_dir, ledger, names)
            if longer:
                _extend(sweep_dir, ledger, names, longer[-1])
            launcher.start(sweep_dir, names)
    launcher.wait(sweep_dir)
    after = observe(sweep_dir)
    output().print(summary(after))
    # Where the command does not wait, cells that stopped may be about to start.
    settled = launcher.settings.get("wait", True)
    return 1 if after.count("failed", "lost", *(["stopped"] if settled else [])) else 0


def _extend(
    sweep_dir: Path, ledger: Ledger, names: list[str], override: str, dry_run: bool = False
) -> None:
    """Give cells a larger budget; nothing is written unless all of them can take it."""
    (parsed,) = parse([override])
    steps = None if parsed.is_sweep_override() else parsed.value()
    if not isinstance(steps, int) or isinstance(steps, bool):
        rule = "must be one whole number, for all cells"
        raise Refused(STEPS, parsed.get_value_string(), rule)
    directories = [RunDirectory(sweep_dir / name) for name in names]
    # In a dry run those that are gone are not made anew.
    directories = [each for each in directories if each.config.exists()]
    cfgs, problems = [stored_data(each.config) for each in directories], list[Refused]()
    for directory, cfg in zip(directories, cfgs, strict=True):
        name = directory.path.name
        if steps < cfg.budget.steps:
            rule = f"{name} has {cfg.budget.steps} already, and cannot get shorter"
            problems.append(Refused(STEPS, steps, rule, f"{cfg.budget.steps} or more"))
        elif steps == cfg.budget.steps:
            continue  # nothing is asked of it, whatever it kept
        elif directory.state == "finished" and not directory.saved_steps:
            rule = f"{name} dropped its state when it finished; keep_state=true keeps it"
            problems.append(Refused(STEPS, steps, rule))
        else:
            # Its classes may be looked up: `_check_code` has let them pass, and starting does it.
            longer = stored_config(directory.config, trust=True)
            longer.budget.steps = steps
            try:
                validate(longer, here=False)
            except ConfigError as error:
                problems += [Refused(STEPS, steps, f"{name}: {each}") for each in error.problems]
    if problems:
        raise ConfigError(problems)
    if dry_run:
        return
    for directory, cfg in zip(directories, cfgs, strict=True):
        if directory.state == "finished" and steps > cfg.budget.steps:
            directory.update(state="preempted")
        cfg.budget.steps = ledger.cells[directory.path.name].steps = steps
        write_atomic(directory.config, OmegaConf.to_yaml(cfg).encode())
    ledger.write(sweep_dir)


def last_launcher(ledger: Ledger, overrides: list[str], trust: bool) -> CellLauncher:
    """The launcher of the last start, with the changes asked for.

    Raises:
        ConfigError: an override is no launcher's of cells, or the ledger has commands for a shell.
    """
    given = {override.key_or_group: override for override in parse(overrides)}
    problems = [
        Refused(str(override.input_line), None, "one value for all cells", "one")
        for override in given.values()
        if override.is_sweep_override()
    ] or [
        Refused(key, None, "cells stay what they are", "hydra.launcher.KEY=VALUE, or a new sweep")
        for key in given
        if key != "hydra/launcher" and not key.startswith("hydra.launcher.")
    ]
    if problems:
        raise ConfigError(problems)
    last = ledger.submissions[-1] if ledger.submissions else None
    kind = str(last.launcher if last else "local")
    if "hydra/launcher" in given:
        kind = str(given["hydra/launcher"].value())
    else:
        overrides = [f"hydra/launcher={kind}", *overrides]
    node = compose_raw(overrides).hydra.launcher
    settings: Any = OmegaConf.to_container(node, resolve=True)
    if last and last.launcher == kind:
        settings |= _kept_settings(last, settings, set(given), trust)
    check_launcher(OmegaConf.create(settings))
    cls = get_class(settings.pop("_target_"))
    if not issubclass(cls, CellLauncher):
        raise Refused("hydra/launcher", kind, "keeps no ledger", "local")
    return cls(**settings)


def _kept_settings(
    last: Submission, defaults: dict[str, Any], given: set[str], trust: bool
) -> dict[str, Any]:
    """What stays as it was at the last start."""
    kept = {
        key: value
        for key, value in last.settings.items()
        if key in defaults and key != "_target_" and f"hydra.launcher.{key}" not in given
    }
    for key in SHELL:
        if not trust and kept.get(key) not in (None, defaults.get(key)):
            rule = "a shell would run what the ledger says; write it again"
            rule += ", or --trust if you know the sweep"
            raise Refused(f"hydra.launcher.{key}", kept[key], rule)
    return kept


def _check_code(sweep_dir: Path, ledger: Ledger, names: list[str]) -> None:
    """Let no cell name code from outside this package: a sweep may come from anywhere.

    Nothing is imported to find out. Where a cell's config is gone, its overrides in the ledger say
    what would be composed anew.

    Raises:
        ConfigError: a line for each such cell.
    """
    problems, known = list[Refused](), "; write --trust if you know it"
    for name in names:
        overrides = ledger.cells[name].overrides
        try:
            named = outside_code(stored_data(sweep_dir / name / "config.yaml"))
        except (ConfigError, OmegaConfBaseException, KeyError, TypeError):
            if own := [line for line in overrides if line.lstrip("+").startswith("hydra")]:
                rule = f"in the ledger, it could bring configs along{known}"
                problems.append(Refused(f"{name}: {own[0]}", None, rule))
                continue
            try:
                named = outside_code(resolved(compose_raw(overrides)))
            except ConfigError:  # starting it will be refused with the reason
                continue
        rule = f"is code from outside sdqn_lab, and starting would run it{known}"
        problems += [Refused(f"{name}: {key}", value, rule) for key, value in named.items()]
    if problems:
        raise ConfigError(problems)


def _restore(sweep_dir: Path, ledger: Ledger, names: list[str]) -> None:
    """Make those directories anew that are gone, and have those that lost their status begin."""
    directories = {name: RunDirectory(sweep_dir / name) for name in names}
    states = {name: state_of(directories[name]) for name in names}  # refuses what is damaged
    gone = [name for name in names if not directories[name].config.exists()]
    cells = plan_cells(sweep_dir, [ledger.cells[name].overrides for name in gone], here=False)
    other = [name for name, cell in zip(gone, cells, strict=True) if cell.path.name != name]
    if other:
        rule = "composed anew it would be another cell, for files of conf/ have changed; "
        rule += "put them back, or start a new sweep"
        raise ConfigError([Refused(name, None, rule) for name in other])
    prepare_cells(sweep_dir, cells)
    # A config without metrics is what version control keeps of a cell that is yet to run.
    for name in set(names) - set(gone):
        if states[name] is None and not directories[name].metrics.exists():
            directories[name].update(state="pending", cell=name)
