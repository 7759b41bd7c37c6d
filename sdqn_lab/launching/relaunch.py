"""Start again those cells of a sweep that nobody works on and that are not finished."""

from pathlib import Path
from typing import Any

from hydra.utils import get_class
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sdqn_lab import config
from sdqn_lab.checks.refused import ConfigError, short
from sdqn_lab.config.directories import state_of
from sdqn_lab.config.planning import plan_cells
from sdqn_lab.config.plugins import check_launcher
from sdqn_lab.config.stored import outside_code
from sdqn_lab.launching import queue
from sdqn_lab.launching.ledger import Ledger, locked
from sdqn_lab.launching.local import CellLauncher
from sdqn_lab.launching.observe import STARTABLE, observe
from sdqn_lab.launching.sweep import enroll
from sdqn_lab.launching.table import out, summary
from sdqn_lab.runs.directory import RunDirectory

SHELL = ("setup", "additional_parameters")
"""Settings of a launcher that go into a job's script as they are."""


def relaunch(sweep_dir: Path, overrides: list[str], trust: bool = False) -> int:
    """Start what is missing, failed, stopped or lost.

    Args:
        sweep_dir: the sweep.
        overrides: ``hydra/launcher=NAME`` and ``hydra.launcher.KEY=VALUE``; what is not named stays
            as it was at the last start.
        trust: import what the cells' configs name outside this package, whoever named it.

    Returns:
        The exit code: 0 if nothing is wrong in the end.

    Raises:
        ConfigError: an override is no launcher's, a cell's ``status.json`` is damaged, a cell
            whose directory is gone cannot be composed again; or, without ``trust``, one names code
            of others, or the ledger words for a shell.
        LedgerError: no ledger.
        SlurmError: SLURM does not answer, so nobody knows what is running.
        SystemExit: with code 143, if stopped by a signal.
    """
    ledger = Ledger.read(sweep_dir)
    launcher, dry_run = _launcher(ledger, overrides, trust)
    with locked(sweep_dir):
        seen = observe(sweep_dir)
        if seen.problem:
            raise queue.SlurmError(f"{seen.problem}; nobody knows what is running, so try again")
        names = seen.names(STARTABLE)
        if not trust:
            _check_code(sweep_dir, ledger, names)
        if dry_run:
            print("\n".join([f"would start {len(names)} cells", *names]))
            return 0
        if names:
            _restore(sweep_dir, ledger, names)
            launcher.start(sweep_dir, names)
    launcher.attend(sweep_dir)
    after = observe(sweep_dir)
    out().print(summary(after))
    settled = launcher.settings.get("wait", True)
    return 1 if after.count("failed", "lost", *(["stopped"] if settled else [])) else 0


def _launcher(ledger: Ledger, overrides: list[str], trust: bool) -> tuple[CellLauncher, bool]:
    """The launcher of the last start, with the changes asked for; whether only to say what."""
    given = {o.key_or_group: o for o in config.parse(overrides)}
    if swept := [o.input_line for o in given.values() if o.is_sweep_override()]:
        raise ConfigError([f"{line}: one value for all cells; write one" for line in swept])
    foreign = [k for k in given if k != "hydra/launcher" and not k.startswith("hydra.launcher.")]
    if foreign:
        raise ConfigError(
            [
                f"{key}: cells stay what they are; write hydra.launcher.KEY=VALUE, or a new sweep"
                for key in foreign
            ]
        )
    last = ledger.submissions[-1] if ledger.submissions else None
    kind = str(last.launcher if last else "local")
    if "hydra/launcher" in given:
        kind = str(given["hydra/launcher"].value())
    words = [line for line in overrides if not line.startswith("hydra/launcher=")]
    node = config.compose_raw([f"hydra/launcher={kind}", *words]).hydra.launcher
    settings: Any = OmegaConf.to_container(node, resolve=True)
    if last and last.launcher == kind:
        named = {key.removeprefix("hydra.launcher.") for key in given}
        kept = {k: v for k, v in last.settings.items() if k in settings and k not in named}
        for key in SHELL:
            if not trust and kept.get(key) not in (None, settings.get(key)):
                fault = "a shell would run what the ledger says"
                remedy = "write it again, or --trust if you know the sweep"
                value = short(kept[key])
                raise ConfigError([f"hydra.launcher.{key}={value}: {fault}; {remedy}"])
        settings |= {k: v for k, v in kept.items() if k != "_target_"}
    check_launcher(OmegaConf.create(settings))
    target = settings.pop("_target_")
    cls = get_class(target)
    if not issubclass(cls, CellLauncher):
        raise ConfigError([f"hydra/launcher={kind}: keeps no ledger; write hydra/launcher=local"])
    return cls(**settings), bool(settings["dry_run"])


def _check_code(sweep_dir: Path, ledger: Ledger, names: list[str]) -> None:
    """Let no cell name code from outside this package: a sweep may come from anywhere.

    Nothing is imported to find out. Where a cell's config is gone, its overrides in the ledger say
    what would be composed anew.

    Raises:
        ConfigError: a line for each such cell.
    """
    problems = []
    for name in names:
        told = ledger.cells[name].overrides
        if own := [line for line in told if line.lstrip("+").startswith("hydra")]:
            problems.append(f"{name}: {short(own[0])} in the ledger could bring configs along")
            continue
        stored = _stored_code(sweep_dir / name / "config.yaml")
        named = _asked_code(told) if stored is None else stored
        problems += [
            f"{name}: {key}={short(value)} is code from outside sdqn_lab, and starting would run it"
            for key, value in named.items()
        ]
    if problems:
        raise ConfigError([f"{problem}; write --trust if you know it" for problem in problems])


def _asked_code(told: list[str]) -> dict[str, str]:
    """Code of others that a cell's overrides name; none where they cannot be composed any more."""
    try:
        return outside_code(config.resolved(config.compose_raw(told)))
    except ConfigError:
        return {}


def _stored_code(file: Path) -> dict[str, str] | None:
    """Code of others that a cell's config names; None where nobody can read it, nor the cell."""
    try:
        return outside_code(config.stored_data(file))
    except (ConfigError, OmegaConfBaseException, KeyError, TypeError):
        return None


def _restore(sweep_dir: Path, ledger: Ledger, names: list[str]) -> None:
    """Make those directories anew that are gone, and have those that lost their status begin.

    A directory that the ledger names and that holds the config without metrics is what version
    control keeps of a cell that is yet to run.
    """
    directories = {name: RunDirectory(sweep_dir / name) for name in names}
    states = {name: state_of(directories[name]) for name in names}  # refuses what is damaged
    gone = [name for name in names if not directories[name].config.exists()]
    cells = plan_cells(sweep_dir, [ledger.cells[name].overrides for name in gone], here=False)
    other = [name for name, cell in zip(gone, cells, strict=True) if cell.path.name != name]
    if other:
        raise ConfigError(
            [
                f"{name}: composed anew it would be another cell, for files of conf/ "
                "have changed; put them back, or start a new sweep"
                for name in other
            ]
        )
    enroll(sweep_dir, cells)
    for name in set(names) - set(gone):
        if states[name] is None and not directories[name].metrics.exists():
            directories[name].update(state="pending", cell=name)
