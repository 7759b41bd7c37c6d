"""A sweep as a person sees it: counts, a row a cell, what went wrong."""

import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sdqn_lab.launching.observe import STATES, WRONG, Observation, Report
from sdqn_lab.tracking.progress import clock

STYLES = {"finished": "green", "running": "cyan", "failed": "bold red", "lost": "bold red"}
PLAIN_WIDTH = 160
"""Columns of a table that goes into a file or a pipe."""
MOST_ROWS = 60
"""Longer tables leave out cells of which there is nothing to say."""
LIVE_SECONDS = 2.0
LINE_SECONDS = 10.0


def out() -> Console:
    """Where tables go: the terminal as wide as it is, anything else wide enough."""
    terminal = sys.stdout.isatty()
    return Console(width=None if terminal else PLAIN_WIDTH, emoji=False, highlight=False)


def summary(seen: Observation) -> str:
    """``255 cells: 12 finished, 4 running, 239 queued; ETA 3h 05m``."""
    counts = [f"{seen.count(state)} {state}" for state in STATES if seen.count(state)]
    noun = "cell" if len(seen.reports) == 1 else "cells"
    line = f"{len(seen.reports)} {noun}: {', '.join(counts)}"
    left = seconds_left(seen)
    return line if left is None else f"{line}; ETA {clock(left)}"


def seconds_left(seen: Observation) -> float | None:
    """All that active cells have left to do, at the rate of those that run now."""
    running = [r for r in seen.reports if r.state == "running" and r.rate]
    rate = sum(r.rate for r in running)
    open_ = [r for r in seen.reports if r.state in ("running", "queued", "requeued")]
    if not rate:
        return None
    longest = max(r.seconds_left or 0.0 for r in running)
    return max(longest, sum(r.total_steps - r.steps for r in open_) / rate)


def table(seen: Observation, most_rows: int = MOST_ROWS) -> RenderableType:
    """Counts, cells and what a person should read."""
    rows = _rows_to_show(seen.reports, most_rows)
    grid = Table(title=f"{seen.sweep_dir}", title_justify="left", title_style="bold")
    for heading in ("cell", "state", "steps", "steps/s", "ETA", "return", "evaluation", "starts"):
        right = heading in ("steps", "steps/s", "ETA", "return", "evaluation", "starts")
        grid.add_column(heading, overflow="fold", justify="right" if right else "left")
    for report in rows:
        grid.add_row(*_row(report), style=STYLES.get(report.state))
    hidden = len(seen.reports) - len(rows)
    lines = [summary(seen)] + ([f"({hidden} cells not shown; --all shows them)"] if hidden else [])
    return Group(grid, *map(Text, lines), *map(Text, notes(seen)))


def _rows_to_show(reports: list[Report], most: int) -> list[Report]:
    """All if they are few; else first what went wrong, then what is at work."""
    if len(reports) <= most:
        return reports
    order = ("failed", "lost", "running", "requeued", "stopped", "missing", "queued", "finished")
    return sorted(reports, key=lambda report: order.index(report.state))[:most]


def _row(report: Report) -> list[str]:
    left = report.seconds_left if report.state == "running" else None
    return [
        report.name,
        report.state,
        f"{report.steps:,} of {report.total_steps:,}",
        f"{report.rate:,.0f}" if report.state == "running" and report.rate else "",
        clock(left) if left is not None else "",
        _score(report.last_return),
        _score(report.evaluation),
        str(report.attempts),
    ]


def _score(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def notes(seen: Observation) -> list[str]:
    """A line for everything that went wrong, with the place of its log."""
    lines = [f"WARNING {seen.problem}; states are what the cells told last"] if seen.problem else []
    stuck = Counter(r.reason for r in seen.reports if r.reason and r.state not in WRONG)
    lines += [f"WARNING {count} cells wait: {reason}" for reason, count in stuck.items()]
    for report in seen.reports:
        if report.state in WRONG:
            lines.append(wrong_line(report))
        lines += [f"WARNING {report.name}: {warning}" for warning in report.warnings]
    return lines


def wrong_line(report: Report) -> str:
    """What is wrong with a cell, and where to read more."""
    where = f"; log: {report.log}" if report.log else ""
    job = f" (job {report.job})" if report.job else ""
    return f"{report.name}{job}: {report.state}: {report.reason}{where}"


class Watch:
    """Shows a sweep while it goes on: a live table on a terminal, a line a change elsewhere."""

    def __init__(self, console: Console, live: Live | None) -> None:
        self._console, self._live = console, live
        self._known: dict[str, str] = {}
        self._last = 0.0

    def due(self) -> bool:
        """Whether it is time for another look."""
        period = LINE_SECONDS if self._live is None else LIVE_SECONDS
        return time.monotonic() - self._last > period

    def show(self, seen: Observation) -> None:
        """Show the sweep as it is now."""
        self._last = time.monotonic()
        if self._live is not None:
            height = max(5, self._console.height - 12)
            self._live.update(table(seen, height), refresh=True)
        for report in seen.reports:
            if self._known.get(report.name) != report.state:
                self._tell(report, summary(seen))
                self._known[report.name] = report.state

    def _tell(self, report: Report, counts: str) -> None:
        first = report.name not in self._known
        if report.state in WRONG:
            self._console.print(wrong_line(report), soft_wrap=True)
        elif self._live is None and not (first and report.state in ("queued", "finished")):
            score = "" if report.evaluation is None else f" with {report.evaluation:.2f}"
            ended = score if report.state == "finished" else ""
            self._console.print(f"{report.name}: {report.state}{ended} ({counts})", soft_wrap=True)


@contextmanager
def watching(console: Console) -> Iterator[Watch]:
    """A place to show a sweep in, for as long as this lasts."""
    if not console.is_terminal:
        yield Watch(console, None)
        return
    # No thread of its own: cells are started from this process, which must not have any then.
    with Live(console=console, auto_refresh=False, transient=True) as live:
        yield Watch(console, live)
