"""One run directory, read: what tables and figures say of it."""

from pathlib import Path
from typing import Any

import yaml

from sdqn_lab.tracking.metrics import read_metrics
from sdqn_lab.tracking.run_directory import RunDirectory

FIRING = "snn/firing_rate/"
SILENT = "snn/silent_fraction/"
SILENT_LAYER = 0.999
"""A layer with at least this share of its units never firing is called silent."""


class Run:
    """What a table or a figure says of one run directory.

    Args:
        path: the directory.
        state: what is known of it from elsewhere; None: what its own ``status.json`` says.
    """

    def __init__(self, path: Path, state: str | None = None) -> None:
        self._state = state
        self.directory = RunDirectory(path)
        self._records = read_metrics(self.directory.metrics)
        config = self.directory.config
        self._cfg: Any = yaml.safe_load(config.read_text()) if config.exists() else {}

    @property
    def choices(self) -> dict[str, str | None]:
        """Group -> option."""
        return dict(self._cfg.get("choices", {}))

    @property
    def game(self) -> str:
        """The option of ``env``."""
        return str(self.choices.get("env", "?"))

    @property
    def seed(self) -> str:
        """The run's seed."""
        return str(self._cfg.get("seed", "?"))

    @property
    def arm(self) -> str:
        """The experiment's name, or the axes."""
        choices = self.choices
        if not choices:
            return self.directory.path.name
        if experiment := choices["experiment"]:
            return experiment
        axes = [choices["neuron"], choices["norm"]]
        if choices["neuron"] != "relu":
            axes += [choices["surrogate"], f"T{self._cfg['time_window']}"]
        return " ".join(str(axis) for axis in axes)

    def row(self) -> list[str]:
        """One cell for each of ``COLUMNS``."""
        last = self._records[-1] if self._records else {}
        rates = self._layers(FIRING)
        silent = [name for name, share in self._layers(SILENT).items() if share >= SILENT_LAYER]
        return [
            self.game,
            self.arm,
            self.seed,
            self._state or self.directory.state or "missing",
            f"{last.get('step', 0):,}",
            self._score(),
            "  ".join(f"{name} {rate:.3f}" for name, rate in rates.items()) or "-",
            (", ".join(silent) or "none") if rates else "-",
            self._rate(last),
        ]

    def evaluations(self) -> list[dict[str, Any]]:
        """The records of evaluations, in order."""
        return [record for record in self._records if "eval/return_mean" in record]

    def _score(self) -> str:
        played = self.evaluations()
        if not played:
            return "-"
        last = played[-1]
        episodes = len(last["eval/returns"])
        mean, std = last["eval/return_mean"], last["eval/return_std"]
        return f"{mean:.2f} ± {std:.2f} (n={episodes})"

    def _layers(self, prefix: str) -> dict[str, float]:
        told = [r for r in self._records if any(key.startswith(prefix) for key in r)]
        last: dict[str, Any] = told[-1] if told else {}
        return {k.removeprefix(prefix): v for k, v in last.items() if k.startswith(prefix)}

    def _rate(self, last: dict[str, Any]) -> str:
        wall = last.get("wall_seconds", 0.0)
        return f"{last['step'] / wall:,.0f}" if wall else "-"
