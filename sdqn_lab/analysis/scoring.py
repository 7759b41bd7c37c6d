"""Scores of runs at a common length, and the scale on which games can be averaged."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sdqn_lab.analysis.comparison import ENDED, Arm, Comparison, Task
from sdqn_lab.analysis.records import SCORE
from sdqn_lab.analysis.statistics import Array
from sdqn_lab.analysis.stored_run import Run
from sdqn_lab.envs.scores import Scale, scale_of
from sdqn_lab.runs.objective import LAST_SHARE


@dataclass(frozen=True)
class Score:
    """One run's scores at the common length of its task, in game points.

    Attributes:
        last: mean over the evaluations of the last window.
        best: the highest evaluation so far; the largest of many noisy numbers.
    """

    run: Run
    last: float
    best: float


class Scores:
    """Scores of every run that is as long as the comparison of its task.

    The common length of a task is the number of agent steps that every arm was asked for, once a
    run has got there; until then the largest number that every arm that has begun was evaluated
    at. Runs that are shorter are left out and named; evaluations beyond it do not count, so that
    arms of unequal budgets are compared at equal steps.

    Args:
        comparison: arms, tasks and runs; it records who is left out.
    """

    def __init__(self, comparison: Comparison) -> None:
        self.comparison = comparison
        self.steps: dict[Task, int] = {}
        """The common length of each task; 0 where no run was evaluated."""
        self.interim: list[Task] = []
        """Tasks in which no run is as long as it is to be: their scores will move."""
        for task in comparison.tasks:
            arms = [runs for arm in comparison.arms if (runs := comparison.of(task, arm))]
            # Within an arm the longest run counts: the others are on their way, or failed.
            asked = min(max(run.steps_asked for run in runs) for runs in arms)
            longest = [max(map(_last_step, runs)) for runs in arms]
            if max(longest) >= asked:
                self.steps[task] = asked
            else:
                self.steps[task] = min((steps for steps in longest if steps), default=0)
                self.interim.append(task)
        self._scores = {
            (task, arm): [s for run in comparison.of(task, arm) if (s := self._score(run, task))]
            for task in comparison.tasks
            for arm in comparison.arms
        }

    def of(self, task: Task, arm: Arm) -> list[Score]:
        """Scores of an arm's runs, one each."""
        return self._scores[task, arm]

    def last(self, task: Task, arm: Arm) -> Array:
        """Scores of the last window, (seeds,)."""
        return np.array([score.last for score in self.of(task, arm)], float)

    def best(self, task: Task, arm: Arm) -> Array:
        """Best evaluations, (seeds,)."""
        return np.array([score.best for score in self.of(task, arm)], float)

    def _score(self, run: Run, task: Task) -> Score | None:
        end, last, warn = self.steps[task], _last_step(run), self.comparison.warn
        slack = run.slack_steps(end)
        if not end or last < end - slack:
            if last:
                reason = f"evaluated until step {last:,}, compared at {end:,}"
                warn(run, f"not in the scores: {reason}")
            elif run.state not in ENDED:  # else it is named already
                warn(run, f"not in the scores: {run.state}, not evaluated yet")
            return None
        steps, values = run.records.series(SCORE)
        until = steps <= end + slack
        if not until.all():
            warn(run, f"evaluations after step {end:,} do not count: others end there")
        steps, values = steps[until], values[until]
        if not len(steps) or steps[-1] < end - slack:
            warn(run, f"not in the scores: it was not evaluated at step {end:,}")
            return None
        # Environments step together: what was due where the window begins may lie so far inside.
        late = steps > (1 - LAST_SHARE) * end + run.num_envs
        # Also of a run that is a few vector steps long.
        late[-1] = True
        return Score(run, float(values[late].mean()), float(values.max()))


def _last_step(run: Run) -> int:
    return int(run.evaluations[-1]["step"]) if run.evaluations else 0


@dataclass(frozen=True)
class Suite:
    """Tasks that can be averaged, because they share a scale.

    Attributes:
        name: of the scale, and of the protocol where one scale is there under several.
        tasks: theirs, all played under one protocol.
        scales: each one's; None for a single game in its own points.
        suffix: ends the names of this suite's tables and figures, so that each is a file.
    """

    name: str
    tasks: list[Task]
    scales: Mapping[Task, Scale] | None
    suffix: str

    @property
    def normalized(self) -> bool:
        """Whether scores are shares of the way from a random player to the reference."""
        return self.scales is not None

    def normalize(self, task: Task, scores: Array) -> Array:
        """(score - random) / (reference - random), or the scores themselves."""
        return scores if self.scales is None else self.scales[task].normalize(scores)


def suites(tasks: Sequence[Task]) -> list[Suite]:
    """Tasks sorted by the scale and the rules they share; without scale a task stands alone."""
    found: dict[tuple[str, str], dict[Task, Scale]] = {}
    for task in tasks:
        if scale := scale_of(task.game):
            found.setdefault((scale.name, task.rules), {})[task] = scale
    names = [name for name, _ in found]
    sorted_: list[tuple[str, list[Task], Mapping[Task, Scale] | None]] = []
    for (name, rules), scales in found.items():
        first = next(iter(scales))
        protocol = f", {first.protocol}: {first.particular or rules}"
        sorted_.append((name + protocol * (names.count(name) > 1), list(scales), scales))
    alone = [task for task in tasks if scale_of(task.game) is None]
    sorted_ += [(f"{task}, game points", [task], None) for task in alone]
    return [
        Suite(*suite, suffix=f"-{place}" if place > 1 else "")
        for place, suite in enumerate(sorted_, start=1)
    ]
