"""One run directory, read: what tables and figures say of it."""

import json
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pydantic import BaseModel

from sdqn_lab.analysis import forms
from sdqn_lab.analysis.records import Record, Records, is_number, read_records
from sdqn_lab.analysis.statistics import Array
from sdqn_lab.runs.directory import RunDirectory
from sdqn_lab.runs.files import check_no_aliases, read
from sdqn_lab.runs.upgrade import LATER, upgraded

FIRING = "snn/firing_rate/"
SILENT = "snn/silent_fraction/"
GROUPS = ("experiment", "neuron", "norm", "surrogate", "encoder", "readout", "network", "algo")
"""Choices that may distinguish arms; of equal ones the first names them."""
ORIGINS = ("sweep", "commit")
"""Where a run comes from; distinguishes arms only where the user asks for it."""
NO_AXIS = frozenset(
    {"protocol", "budget", "tracker", "choices", "seed", "device", "threads", "health"}
    | {"checkpoint_every_minutes", "keep_state", "objective", "env.id", "env.threads"}
    | {"env.family", "env.sizes", "env.log_every_steps", "algo.replay_device"}
)
"""Parts of a config that make no arm: the game, how it is scored, how long, and on what."""
MAX_ENVIRONMENTS = 1_000
OVERSHOOT = 0.01
"""Evaluations this share of a length apart are taken for equally late."""
OF_TIME = ("time_window", "time_window_eval", "surrogate", "backend")
"""What means nothing to neurons without time."""
TIMELESS = "relu"


class Run:
    """What is said of one run directory.

    Reading never fails: what is damaged is missing, and named in `problems`.

    Args:
        path: the directory.
        state: what is known of it from elsewhere; None: what its own `status.json` says.
        facts: what its sweep knows of it: `game`, `seed`, `steps`, `command`.
    """

    def __init__(
        self, path: Path, state: str | None = None, facts: Mapping[str, Any] | None = None
    ) -> None:
        self.path = path
        self.directory = RunDirectory(path)
        self.problems: list[str] = []
        self.facts = dict(facts or {})
        self.config = upgraded(self._read(self.directory.config, _yaml, forms.Config) or {})
        self.status = self._status()
        self.probe = self._read(self.directory.probe, json.loads, forms.Probe)
        self.state: str = state or self.status.get("state") or "missing"

    def _read(
        self, file: Path, parse: Callable[[bytes], Any], form: type[BaseModel]
    ) -> dict[str, Any] | None:
        """The content of a file; None, and a problem, where it is not what it should be."""
        try:
            content: dict[str, Any] = parse(read(file))
        except FileNotFoundError:
            return None
        except (ValueError, RecursionError, yaml.YAMLError, OSError) as error:
            self.problems.append(f"{file.name} cannot be read: {str(error).splitlines()[0]}")
            return None
        if wrong := forms.fault(form, content):
            self.problems.append(f"{file.name} is not that of a run: {wrong}")
            return None
        return content

    def _status(self) -> dict[str, Any]:
        try:
            status = self.directory.status()
        except (ValueError, OSError) as error:
            self.problems.append(str(error).removeprefix(f"{self.directory.status_file}: "))
            return {}
        if wrong := forms.fault(forms.Status, status):
            self.problems.append(f"status.json is not that of a run: {wrong}")
            # The state is one that a run has; what else is there cannot be trusted.
            return {"state": status.get("state")}
        return status

    @cached_property
    def records(self) -> Records:
        """The metrics; read when first asked for."""
        # One damaged number far beyond the end would stretch every axis and pass for progress.
        limit = round((1 + OVERSHOOT) * self.steps_asked) + MAX_ENVIRONMENTS
        records = read_records(self.directory.metrics, limit if self.config else None)
        # A run that has not begun has no metrics, and nothing is wrong with that.
        if self.state not in ("missing", "pending", "queued") or records.last:
            self.problems += records.problems
        return records

    @property
    def evaluations(self) -> list[Record]:
        """The records of evaluations, in order."""
        return self.records.evaluations

    @property
    def choices(self) -> dict[str, str | None]:
        """Group -> option."""
        return dict(self.config.get("choices", {}))

    @property
    def game(self) -> str:
        """The option of `env`; of an environment outside this package its id."""
        env = self.choices.get("env")
        if env == "gymnasium":
            return str(self.config["env"]["id"])
        return str(env or self.facts.get("game", "?"))

    @property
    def seed(self) -> str:
        """The run's seed."""
        return str(self.config.get("seed", self.facts.get("seed", "?")))

    @property
    def steps_asked(self) -> int:
        """Agent steps that the run is to make; 0 where nothing says so."""
        return int(self.config.get("budget", {}).get("steps", self.facts.get("steps", 0)))

    @property
    def steps(self) -> int:
        """Agent steps made."""
        return int(self.records.last.get("step", 0))

    @property
    def num_envs(self) -> int:
        """Environments that the run steps together."""
        return int(self.config.get("algo", {}).get("num_envs", 1))

    def slack_steps(self, end: float) -> float:
        """How far from a step an evaluation may lie and still count as there.

        All environments step together, so a run cannot end at every number of steps.
        """
        return max(OVERSHOOT * end, self.num_envs)

    @cached_property
    def options(self) -> dict[str, Any]:
        """Every choice in which two runs of one game may differ: groups, then single settings."""
        if not self.config:
            return {}
        choices = self.choices
        # Groups come first, so that an option names an arm and not what follows from it.
        groups = {group: choices.get(group) for group in GROUPS}
        single = {key: v for key, v in _flat(self.config) if key not in LATER or v != LATER[key]}
        if choices.get("neuron") == TIMELESS:
            groups["surrogate"] = None
            single = {k: v for k, v in single.items() if k.partition(".")[0] not in OF_TIME}
        return groups | single

    def option(self, key: str) -> Any:
        """The value of a choice, or of one of `ORIGINS`; None where it means nothing here."""
        if key in ORIGINS:
            return self.commit if key == "commit" else str(self.path.parent)
        return self.options.get(key, LATER.get(key))

    @property
    def layers(self) -> list[str]:
        """Names of the layers whose firing was recorded, in the order of the network."""
        return list(self.last_of(FIRING))

    def last_of(self, prefix: str) -> dict[str, float]:
        """The numbers of the last record of firing under keys with a prefix, by what follows it."""
        return {
            key.removeprefix(prefix): value
            for key, value in self.records.spiking.items()
            if key.startswith(prefix) and is_number(value)
        }

    @property
    def attempt(self) -> dict[str, Any]:
        """The facts of the last attempt: code, versions, machine."""
        return dict((self.status.get("attempts") or [{}])[-1])

    @property
    def commit(self) -> str:
        """The code of every attempt, `+` where it was changed."""
        made = [a for a in self.status.get("attempts") or [] if a.get("git_sha")]
        shas = [f"{a['git_sha'][:8]}{'+' * bool(a.get('git_dirty'))}" for a in made]
        return ", ".join(dict.fromkeys(shas)) or "-"

    @property
    def machine(self) -> str:
        """The hardware that the run was made on."""
        facts = self.attempt
        if gpus := facts.get("gpus"):
            return str(gpus[0])
        threads, cpu = facts.get("threads"), facts.get("cpu", "unknown machine")
        return f"{cpu}, {threads} thread{'s' * (threads != 1)}" if threads else f"{cpu}"


def _yaml(text: bytes) -> Any:
    check_no_aliases(text)
    # The safe loader makes plain values alone, whatever tags a file of others has.
    return yaml.load(text, yaml.CSafeLoader)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if name in NO_AXIS:
            continue
        if isinstance(value, dict):
            yield from _flat(value, f"{name}.")
        else:
            yield name, comparable(value)


def comparable(value: Any) -> Any:
    """Lists as tuples, and anything stranger as text."""
    if isinstance(value, list):
        return tuple(map(comparable, value))
    return str(value) if isinstance(value, dict) else value


def read_off(grid: Array, at: Array, values: Array) -> Array:
    """A curve at these places; not a number where it has not been, up to `OVERSHOOT`."""
    # Beyond its ends interpolation would draw what never was.
    been = (grid >= at[0] * (1 - OVERSHOOT)) & (grid <= at[-1] * (1 + OVERSHOOT))
    return np.where(been, np.interp(grid, at, values), np.nan)
