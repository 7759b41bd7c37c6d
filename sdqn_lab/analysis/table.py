"""The table that a command ends with: one row a cell."""

from rich.console import Console
from rich.table import Table

from sdqn_lab.analysis.run import FIRING, SILENT, Run

COLUMNS = (
    *("game", "arm", "seed", "state", "steps", "return", "firing rate by layer", "silent layers"),
    "steps/s",
)
SILENT_LAYER = 0.999
"""A layer with at least this share of its units never firing is called silent."""


def print_table(runs: list[Run], console: Console, title: str) -> None:
    """Print state, last evaluation and firing of every cell."""
    protocols = sorted({str(run.choices["protocol"]) for run in runs if run.choices})
    table = Table(title=f"{title}; protocol: {', '.join(protocols)}", title_justify="left")
    for heading in COLUMNS:
        table.add_column(heading, overflow="fold")
    for run in runs:
        table.add_row(*_row(run))
    console.print(table)
    console.print(
        "return: mean ± standard deviation over the n episodes of the last evaluation, unclipped; "
        "firing rate: share of units firing per step (ANN: active units)"
    )


def _row(run: Run) -> list[str]:
    rates = run.last_of(FIRING)
    silent = [name for name, share in run.last_of(SILENT).items() if share >= SILENT_LAYER]
    return [
        run.game,
        run.arm,
        run.seed,
        run.state,
        f"{run.steps:,}",
        _score(run),
        "  ".join(f"{name} {rate:.3f}" for name, rate in rates.items()) or "-",
        (", ".join(silent) or "none") if rates else "-",
        _rate(run),
    ]


def _score(run: Run) -> str:
    if not run.evaluations:
        return "-"
    last = run.evaluations[-1]
    mean, std = last["eval/return_mean"], last["eval/return_std"]
    return f"{mean:.2f} ± {std:.2f} (n={len(last['eval/returns'])})"


def _rate(run: Run) -> str:
    wall = run.records.last.get("wall_seconds", 0.0)
    return f"{run.steps / wall:,.0f}" if wall else "-"
