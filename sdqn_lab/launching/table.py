"""A sweep as a person sees it: counts, a row per cell, what went wrong."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sdqn_lab.launching.observe import ACTIVE, STATES, WRONG, Observation, Report
from sdqn_lab.tracking.progress import clock

STYLES = {"finished": "green", "running": "cyan", "failed": "bold red", "lost": "bold red"}
URGENCY = ("failed", "lost", "running", "requeued", "stopped", "missing", "queued", "finished")
"""Order of states in a table that has no room for all cells."""
COLUMNS = ("cell", "state", "steps", "steps/s", "ETA", "return", "evaluation", "starts")
MAX_ROWS = 60
LIVE_SECONDS = 2.0
LINE_SECONDS = 10.0
SUMMARY_SECONDS = 300.0
"""How long a sweep without a terminal is silent while no cell changes its state."""


def summary(seen: Observation) -> str:
    """`255 cells: 12 finished, 4 running, 239 queued; ETA 3h 05m`."""
    counts = [f"{seen.count(state)} {state}" for state in STATES if seen.count(state)]
    noun = "cell" if len(seen.reports) == 1 else "cells"
    line = f"{len(seen.reports)} {noun}: {', '.join(counts)}"
    running = [r for r in seen.reports if r.state == "running" and r.rate]
    if not running:
        return line
    # All that is left at the speed of those that run now, but no sooner than the slowest of them.
    left = sum(r.total_steps - r.steps for r in seen.reports if r.state in ACTIVE)
    slowest = max(r.seconds_left or 0.0 for r in running)
    return f"{line}; ETA {clock(max(slowest, left / sum(r.rate for r in running)))}"


def table(seen: Observation, max_rows: int = MAX_ROWS) -> RenderableType:
    """Counts, cells and what a person should read."""
    rows, lines = seen.reports, [summary(seen)]
    if len(rows) > max_rows:
        rows = sorted(rows, key=lambda report: URGENCY.index(report.state))[:max_rows]
        lines.append(f"({len(seen.reports) - max_rows} cells not shown; --all shows them)")
    grid = Table(title=f"{seen.sweep_dir}", title_justify="left", title_style="bold")
    for heading in COLUMNS:
        left = heading in ("cell", "state")
        grid.add_column(heading, overflow="fold", justify="left" if left else "right")
    for report in rows:
        seconds = report.seconds_left if report.state == "running" else None
        grid.add_row(
            report.label,
            report.state,
            f"{report.steps:,} of {report.total_steps:,}",
            f"{report.rate:,.0f}" if seconds is not None else "",
            clock(seconds) if seconds is not None else "",
            *("" if x is None else f"{x:.2f}" for x in (report.last_return, report.evaluation)),
            str(report.attempts),
            style=STYLES.get(report.state),
        )
    return Group(grid, *map(Text, [*lines, *notes(seen)]))


def notes(seen: Observation) -> list[str]:
    """A line for everything that went wrong, with the place of its log."""
    lines = (
        [f"WARNING {seen.problem}; states are what the cells wrote last"] if seen.problem else []
    )
    stuck = Counter(r.reason for r in seen.reports if r.reason and r.state not in WRONG)
    lines += [f"WARNING {count} cells wait: {reason}" for reason, count in stuck.items()]
    for report in seen.reports:
        if report.state in WRONG:
            lines.append(wrong_line(report))
        lines += [f"WARNING {report.label}: {warning}" for warning in report.warnings]
    return lines


def wrong_line(report: Report) -> str:
    """What is wrong with a cell, and where to read more."""
    where = f"; log: {report.log}" if report.log else ""
    job = f" (job {report.job})" if report.job else ""
    return f"{report.label}{job}: {report.state}: {report.reason}{where}"


class Watch:
    """Shows a sweep while it goes on: a live table on a terminal, elsewhere a line per change.

    Args:
        console: where lines go.
        live: the table on a terminal.
    """

    def __init__(self, console: Console, live: Live | None) -> None:
        self._console, self._live = console, live
        self._known: dict[str, str] = {}
        self._looked = 0.0
        self._printed = time.monotonic()

    def due(self) -> bool:
        """Whether it is time for another look."""
        period = LINE_SECONDS if self._live is None else LIVE_SECONDS
        return time.monotonic() - self._looked > period

    def show(self, seen: Observation) -> None:
        """Show the sweep as it is now."""
        self._looked = time.monotonic()
        counts = summary(seen)
        if self._live is not None:
            self._live.update(table(seen, max(5, self._console.height - 12)), refresh=True)
        for report in seen.reports:
            before = self._known.get(report.name)
            self._known[report.name] = report.state
            if before == report.state:
                continue
            if report.state in WRONG:
                self._print(wrong_line(report))
            # At the first look the counts tell of those that nothing happens to.
            elif self._live is None and (before or report.state in ("running", "requeued")):
                scored = report.state == "finished" and report.evaluation is not None
                score = f" with {report.evaluation:.2f}" if scored else ""
                self._print(f"{report.label}: {report.state}{score} ({counts})")
        # Long cells would leave a log file without a line for hours.
        if self._live is None and time.monotonic() - self._printed > SUMMARY_SECONDS:
            self._print(counts)

    def _print(self, line: str) -> None:
        self._printed = time.monotonic()
        self._console.print(line, soft_wrap=True)


@contextmanager
def watching(console: Console) -> Iterator[Watch]:
    """A place to show a sweep in, for as long as this lasts."""
    if not console.is_terminal:
        yield Watch(console, None)
        return
    # No thread of its own: cells are started from this process, which must not have any then.
    with Live(console=console, auto_refresh=False, transient=True) as live:
        yield Watch(console, live)
