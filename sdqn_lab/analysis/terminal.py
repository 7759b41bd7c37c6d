"""The table that a sweep ends with: one row for each cell.

It loads in no time: most commands draw nothing, and must not wait for what draws.
"""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sdqn_lab.analysis.comparison import arm_labels
from sdqn_lab.analysis.stored_run import FIRING, SILENT, Run

SILENT_LAYER = 0.999
"""A layer with at least this share of its units never firing is called silent."""
CELL = ("game", "arm", "seed", "state", "steps", "return", "firing rate by layer", "silent layers")


def print_cells(runs: Sequence[Run], console: Console, title: str) -> None:
    """Print state, last evaluation and firing of every cell, a row for each."""
    protocols = sorted({str(run.choices["protocol"]) for run in runs if run.choices})
    table = Table(title=f"{title}; protocol: {', '.join(protocols)}", title_justify="left")
    for heading in (*CELL, "steps/s"):
        table.add_column(heading, overflow="fold")
    for run, arm in arm_labels(runs).items():
        rates = run.last_of(FIRING)
        silent = [name for name, share in run.last_of(SILENT).items() if share >= SILENT_LAYER]
        score, wall = "-", run.records.last.get("wall_seconds", 0.0)
        if run.evaluations:
            last = run.evaluations[-1]
            mean, std = last["eval/return_mean"], last["eval/return_std"]
            score = f"{mean:.2f} ± {std:.2f} (n={len(last['eval/returns'])})"
        row = [
            *(run.game, arm, run.seed, run.state, f"{run.steps:,}", score),
            "  ".join(f"{name} {rate:.3f}" for name, rate in rates.items()) or "-",
            (", ".join(silent) or "none") if rates else "-",
            f"{run.steps / wall:,.0f}" if wall else "-",
        ]
        table.add_row(*map(Text, row))  # names are shown as they are, brackets too
    console.print(table)
    console.print(
        "return: mean ± standard deviation over the n episodes of the last evaluation, unclipped; "
        "firing rate: share of units firing per step (ANN: active units)"
    )
