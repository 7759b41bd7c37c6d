"""What a person sees while a run works: a live bar on a terminal, plain lines elsewhere."""

import time
from collections.abc import Mapping
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

BAR_SECONDS = 0.2
LINE_SECONDS = 30.0


class RunProgress:
    """Steps, updates, return, rate and ETA of one run, and what its agent says of itself.

    The rate is that of this attempt, evaluations included: the ETA counts the time that was really
    spent on the steps so far.
    """

    def __init__(self, name: str, total_steps: int, done_steps: int, console: Console) -> None:
        self._name, self._total, self._begin = name, total_steps, done_steps
        self._console = console
        self._since = self._last_shown = time.monotonic()
        self._show_every_seconds = BAR_SECONDS if console.is_terminal else LINE_SECONDS
        self._return: float | None = None
        self._bar: Progress | None = None
        self._task = TaskID(0)

    def __enter__(self) -> Self:
        self.say(f"{self._name}: {self._total:,} steps")
        if self._console.is_terminal:
            columns = (BarColumn(bar_width=10), TextColumn("{task.fields[text]}"))
            self._bar = Progress(*columns, console=self._console, transient=True)
            self._task = self._bar.add_task("", total=self._total, text="starting")
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def update(self, steps: int, updates: int, values: Mapping[str, float]) -> None:
        """Called after every vector step; shows something only now and then."""
        if time.monotonic() - self._last_shown < self._show_every_seconds:
            return
        self._last_shown = time.monotonic()
        elapsed = self._last_shown - self._since
        rate = (steps - self._begin) / elapsed if elapsed else 0.0
        left = clock((self._total - steps) / rate) if rate else "?"
        score = "-" if self._return is None else f"{self._return:.2f}"
        more = "".join(f"  {key} {value:.3f}" for key, value in values.items())
        # What matters most comes first: a narrow terminal cuts the end.
        text = f"ETA {left}  {rate:,.0f} steps/s  step {steps:,}  updates {updates:,}  "
        text += f"return {score}{more}"
        if self._bar:
            self._bar.update(self._task, completed=steps, text=text)
        else:
            self.say(f"{self._name}  {text}")

    def record(self, steps: int, values: dict[str, Any]) -> None:
        """Take the last return from a record, and say an evaluation's result in a line."""
        self._return = values.get("train/return", self._return)
        if "eval/return_mean" not in values:
            return
        mean, std = values["eval/return_mean"], values["eval/return_std"]
        episodes = len(values["eval/returns"])
        score = f"{mean:.2f} ± {std:.2f} ({episodes} episodes)"
        self.say(f"{self._name}  step {steps:,}: evaluation {score}")

    def say(self, line: str) -> None:
        """A line of its own, above the bar."""
        # A name may hold brackets, and a command in the line must stay fit for copying.
        self._console.print(line, soft_wrap=True, markup=False)


def clock(seconds: float) -> str:
    """`1d 2h`, `3h 05m`, `4m 05s`: two units are enough."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d {hours}h"
    if hours:
        return f"{hours}h {minutes:02d}m"
    return f"{minutes}m {rest:02d}s"
