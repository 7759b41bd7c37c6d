"""The table that a command ends with: one row a cell, read from the run directories."""

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from sdqn_lab.tracking.metrics import read_metrics
from sdqn_lab.tracking.run_directory import RunDirectory

FIRING = "snn/firing_rate/"
SILENT = "snn/silent_fraction/"
SILENT_LAYER = 0.999
"""A layer with at least this share of its units never firing is called silent."""


def print_table(directories: list[Path], console: Console, title: str) -> None:
    """Print state, last evaluation and firing of every cell."""
    runs = [_Run(directory) for directory in directories]
    protocols = sorted({run.protocol for run in runs if run.protocol})
    table = Table(title=f"{title} (protocol: {', '.join(protocols)})", title_justify="left")
    for heading in ("cell", "state", "steps", "return", "firing rate by layer", "silent layers"):
        table.add_column(heading, overflow="fold")
    table.add_column("steps/s", justify="right")
    for run in runs:
        table.add_row(*run.row())
    console.print(table)
    console.print(
        "return: mean and standard deviation over the episodes of the last evaluation, unclipped"
    )


class _Run:
    """What the table says of one run directory."""

    def __init__(self, path: Path) -> None:
        self._directory = RunDirectory(path)
        self._records = read_metrics(self._directory.metrics)
        cfg = OmegaConf.load(self._directory.config) if self._directory.config.exists() else {}
        self.protocol: str | None = cfg.get("choices", {}).get("protocol")

    def row(self) -> list[str]:
        last = self._records[-1] if self._records else {}
        rates = self._layers(FIRING)
        silent = [name for name, share in self._layers(SILENT).items() if share >= SILENT_LAYER]
        return [
            self._directory.path.name,
            self._directory.state or "missing",
            f"{last.get('step', 0):,}",
            self._score(),
            " ".join(f"{name} {rate:.3f}" for name, rate in rates.items()),
            ", ".join(silent) or "none",
            self._rate(last),
        ]

    def _score(self) -> str:
        played = [record for record in self._records if "eval/return_mean" in record]
        if not played:
            return "-"
        last = played[-1]
        episodes = len(last["eval/returns"])
        return f"{last['eval/return_mean']:.2f} ± {last['eval/return_std']:.2f} (n={episodes})"

    def _layers(self, prefix: str) -> dict[str, float]:
        told = [r for r in self._records if any(key.startswith(prefix) for key in r)]
        last: dict[str, Any] = told[-1] if told else {}
        return {k.removeprefix(prefix): v for k, v in last.items() if k.startswith(prefix)}

    def _rate(self, last: dict[str, Any]) -> str:
        wall = last.get("wall_seconds", 0.0)
        return f"{last['step'] / wall:,.0f}" if wall else "-"
