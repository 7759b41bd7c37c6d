"""Clocks, and the alternation that makes two times comparable on a machine that is not quiet."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

Form = Callable[[], object]
"""One piece of work, done anew at each call."""
Watch = Callable[[Form, int], float]
"""Milliseconds that so many calls of a form take together."""

SHORTEST_MS = 20.0
"""A sample repeats a quick form until it lasts about so long."""
MOST_REPEATS = 1_000
SLOW_MS = 200.0
"""A form whose first call takes longer is warm after it, and is not repeated in a sample."""


class Spread(NamedTuple):
    """Median and quartiles of repeated measurements."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> "Spread":
        """Of one sample or more."""
        low, median, high = np.percentile(samples, [25, 50, 75]).tolist()
        return cls(median, low, high)


class Effort(NamedTuple):
    """How long a contest goes on: at least `rounds`, then until `seconds` are spent."""

    rounds: int
    seconds: float


QUICK = Effort(rounds=3, seconds=1.5)
FULL = Effort(rounds=15, seconds=20.0)


def wall(form: Form, repeats: int) -> float:
    """By the wall clock, for work that leaves nothing running behind."""
    begin = time.perf_counter()
    for _ in range(repeats):
        form()
    return 1e3 * (time.perf_counter() - begin)


def synchronized(form: Form, repeats: int) -> float:
    """By the wall clock, from an idle GPU to an idle GPU: work of host and GPU together."""
    torch.cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(repeats):
        form()
    torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - begin)


def events(form: Form, repeats: int) -> float:
    """By the GPU's own clock, between two events in its stream."""
    begin: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    end: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()
    begin.record()
    for _ in range(repeats):
        form()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end))


def alternate(forms: Mapping[str, Form], effort: Effort, watch: Watch) -> dict[str, Spread]:
    """Measure several forms in turn, A B C A B C ..., so that a slow moment hits all of them.

    Each form is called once or twice before: the first call may compile or allocate, the second
    says how often a sample has to repeat it.

    Returns:
        Milliseconds of one call, by name.
    """
    repeats = {name: _repeats(form, watch) for name, form in forms.items()}
    samples: dict[str, list[float]] = {name: [] for name in forms}
    end = time.perf_counter() + effort.seconds
    rounds = 0
    while rounds < effort.rounds or time.perf_counter() < end:
        for name, form in forms.items():
            samples[name].append(watch(form, repeats[name]) / repeats[name])
        rounds += 1
    return {name: Spread.of(times) for name, times in samples.items()}


def _repeats(form: Form, watch: Watch) -> int:
    if watch(form, 1) > SLOW_MS:
        return 1
    once = max(watch(form, 1), 1e-3)
    return min(MOST_REPEATS, max(1, round(SHORTEST_MS / once)))
