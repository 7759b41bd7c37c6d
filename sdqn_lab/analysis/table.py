"""The table that a command ends with: one row a cell."""

from rich.console import Console
from rich.table import Table

from sdqn_lab.analysis.run import Run

COLUMNS = (
    *("game", "arm", "seed", "state", "steps", "return", "firing rate by layer", "silent layers"),
    "steps/s",
)


def print_table(runs: list[Run], console: Console, title: str) -> None:
    """Print state, last evaluation and firing of every cell."""
    protocols = sorted({str(run.choices["protocol"]) for run in runs if run.choices})
    table = Table(title=f"{title}; protocol: {', '.join(protocols)}", title_justify="left")
    for heading in COLUMNS:
        table.add_column(heading, overflow="fold")
    for run in runs:
        table.add_row(*run.row())
    console.print(table)
    console.print(
        "return: mean ± standard deviation over the n episodes of the last evaluation, unclipped; "
        "firing rate: share of units firing per step (ANN: active units)"
    )
