"""Workloads that take turns, which makes their times comparable on a machine that is not quiet.

The clock is `torch.utils.benchmark`'s, which waits for the GPU. Its `Timer` is not used: it knows
no turns and warms up in each sample, which triples the time of workloads that take a second.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from torch.utils import benchmark

Workload = Callable[[], object]
"""One piece of work, done anew at each call."""
Timer = Callable[[], float]
"""Seconds since some moment, once all devices are idle."""

# A sample repeats a quick workload until it lasts about so long: clocks are coarse.
MIN_SAMPLE_MS = 20.0
MAX_REPEATS = 1_000
# A workload whose first call takes longer is warm after it, and is not repeated in a sample.
SLOW_MS = 200.0


class Spread(NamedTuple):
    """Median and quartiles of repeated measurements."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> "Spread":
        """Of one sample or more."""
        # No mean and deviation: a single stall of the machine would move them both.
        low, median, high = np.percentile(samples, [25, 50, 75]).tolist()
        return cls(median, low, high)


class Effort(NamedTuple):
    """How long a comparison goes on: at least `rounds`, then until `seconds` are spent."""

    rounds: int
    seconds: float


QUICK = Effort(rounds=3, seconds=1.5)
FULL = Effort(rounds=15, seconds=20.0)


def alternate(
    workloads: Mapping[str, Workload], effort: Effort, timer: Timer = benchmark.timer
) -> dict[str, Spread]:
    """Measure several workloads in turn, A B C A B C ..., so that a slow moment hits all of them.

    Returns:
        Milliseconds of one call, by name.
    """

    def sample(work: Workload, repeats: int) -> float:
        begin = timer()
        for _ in range(repeats):
            work()
        return 1e3 * (timer() - begin) / repeats

    repeats = dict.fromkeys(workloads, 1)
    for name, work in workloads.items():
        # The first call may compile or allocate; the second says how often to repeat.
        if sample(work, 1) <= SLOW_MS:
            wanted = round(MIN_SAMPLE_MS / max(sample(work, 1), 1e-3))
            repeats[name] = min(MAX_REPEATS, max(1, wanted))
    samples: dict[str, list[float]] = {name: [] for name in workloads}
    end, rounds = timer() + effort.seconds, 0
    # Rounds are never cut short, so that all have been through the same moments equally often.
    while rounds < effort.rounds or timer() < end:
        for name, work in workloads.items():
            samples[name].append(sample(work, repeats[name]))
        rounds += 1
    return {name: Spread.of(times) for name, times in samples.items()}
