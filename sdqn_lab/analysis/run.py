"""One run directory, read: what tables and figures say of it."""

import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from sdqn_lab.analysis.records import Record, Records, read_records
from sdqn_lab.tracking.run_directory import RunDirectory

FIRING = "snn/firing_rate/"
SILENT = "snn/silent_fraction/"
GROUPS = ("experiment", "neuron", "norm", "surrogate", "encoder", "readout", "network", "algo")
"""Choices that may tell arms apart, the first of equals naming them."""
NO_AXIS = frozenset(
    {"env", "protocol", "budget", "tracker", "choices", "seed", "device", "threads", "health"}
    | {"checkpoint_every_minutes", "keep_state", "backend"}
)
"""Parts of a config that make no arm: the game, how it is scored, how long, and on what."""
OF_TIME = ("time_window", "time_window_eval", "surrogate", "precision")
"""What means nothing to neurons that know no time."""
TIMELESS = "relu"


class Run:
    """What is said of one run directory.

    Reading never fails: what is damaged is missing, and told in ``problems``.

    Args:
        path: the directory.
        state: what is known of it from elsewhere; None: what its own ``status.json`` says.
        facts: what its sweep knows of it: ``game``, ``seed``, ``steps``, ``command``.
    """

    def __init__(
        self, path: Path, state: str | None = None, facts: Mapping[str, Any] | None = None
    ) -> None:
        self.path = path
        self.directory = RunDirectory(path)
        self.problems: list[str] = []
        self.facts = dict(facts or {})
        self.config = self._config()
        self.status = self._status()
        self._probe = self._json(self.directory.probe)
        self.state: str = state or self.status.get("state") or "missing"

    @cached_property
    def records(self) -> Records:
        """The metrics; read when first asked for."""
        records = read_records(self.directory.metrics)
        if self.state not in ("missing", "pending", "queued") or records.last:
            self.problems += records.problems
        return records

    @property
    def probe(self) -> dict[str, Any] | None:
        """The content of ``probe.json``; None where there is none."""
        return self._probe

    @property
    def choices(self) -> dict[str, str | None]:
        """Group -> option."""
        return dict(self.config.get("choices", {}))

    @property
    def game(self) -> str:
        """The option of ``env``; of an environment of one's own its id."""
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
        asked = self.config.get("budget", {}).get("steps", self.facts.get("steps", 0))
        return int(asked)

    @property
    def steps(self) -> int:
        """Agent steps made."""
        return int(self.records.last.get("step", 0))

    @property
    def frames_per_step(self) -> int:
        """Emulator frames of one agent step."""
        last = self.records.evaluations[-1] if self.records.evaluations else {}
        return round(last["frames"] / last["step"]) if last.get("frames") else 1

    @property
    def arm(self) -> str:
        """The experiment's name, or the axes."""
        choices = self.choices
        if not choices:
            return self.path.name
        if experiment := choices.get("experiment"):
            return experiment
        axes = [choices.get("neuron"), choices.get("norm")]
        if choices.get("neuron") != TIMELESS:
            axes += [choices.get("surrogate"), f"T{self.config.get('time_window', '?')}"]
        return " ".join(str(axis) for axis in axes)

    @property
    def options(self) -> dict[str, Any]:
        """Every choice that may tell two runs of one game apart: groups, then single settings."""
        if not self.config:
            return {}
        choices = self.choices
        groups = {group: choices.get(group) for group in GROUPS}
        plain = {key: value for key, value in self.config.items() if key not in NO_AXIS}
        single = {key: value for key, value in _flat(plain) if not key.endswith("_target_")}
        if choices.get("neuron") == TIMELESS:
            groups["surrogate"] = None
            single = {k: v for k, v in single.items() if k.partition(".")[0] not in OF_TIME}
        return groups | single

    @property
    def evaluations(self) -> list[Record]:
        """The records of evaluations, in order."""
        return self.records.evaluations

    @property
    def layers(self) -> list[str]:
        """Names of the layers whose firing was recorded, in the order of the network."""
        return list(self.last_of(FIRING))

    def last_of(self, prefix: str) -> dict[str, float]:
        """The last value of each key that begins so, by what comes after."""
        for record in reversed(self.records.training):
            if found := {
                k.removeprefix(prefix): v for k, v in record.items() if k.startswith(prefix)
            }:
                return found
        return {}

    def attempt(self) -> dict[str, Any]:
        """The facts of the last attempt: code, versions, machine."""
        attempts = self.status.get("attempts") or [{}]
        return dict(attempts[-1])

    def _config(self) -> dict[str, Any]:
        if not self.directory.config.exists():
            return {}
        try:
            config = yaml.load(self.directory.config.read_bytes(), yaml.CSafeLoader)
        except (yaml.YAMLError, OSError) as error:
            self.problems.append(f"config.yaml cannot be read: {str(error).splitlines()[0]}")
            return {}
        if not isinstance(config, dict) or not isinstance(config.get("choices"), dict):
            self.problems.append("config.yaml is not that of a run: it has no `choices`")
            return {}
        return config

    def _status(self) -> dict[str, Any]:
        try:
            return self.directory.status()
        except (ValueError, OSError) as error:
            self.problems.append(str(error).removeprefix(f"{self.directory.status_file}: "))
            return {}

    def _json(self, file: Path) -> dict[str, Any] | None:
        try:
            found = json.loads(file.read_bytes())
        except FileNotFoundError:
            return None
        except (ValueError, OSError) as error:
            self.problems.append(f"{file.name} cannot be read: {error}")
            return None
        return found if isinstance(found, dict) else None


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", tuple(value) if isinstance(value, list) else value
