"""Scores of runs at a common length, and the scale on which games can be averaged."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sdqn_lab.analysis.comparison import ENDED, Arm, Comparison, Task
from sdqn_lab.analysis.records import SCORE, Array
from sdqn_lab.analysis.run import Run
from sdqn_lab.envs.scores import Scale, scale_of

LAST_SHARE = 0.2
"""The last evaluation window: evaluations within this share of the common length, its end."""


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
    at. Runs that are shorter are left out and told of; evaluations beyond it do not count, so that
    arms of unequal budgets are compared at equal steps.

    Args:
        comparison: arms, tasks and runs; it is told who is left out.
    """

    def __init__(self, comparison: Comparison) -> None:
        self.comparison = comparison
        self.steps = {task: self._common(task) for task in comparison.tasks}
        self._scores = {
            (task, arm): self._of(task, arm) for task in comparison.tasks for arm in comparison.arms
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

    @property
    def interim(self) -> list[Task]:
        """Tasks in which no run is as long as it is to be: their scores will move."""
        return [task for task, steps in self.steps.items() if steps < self._asked(task)]

    def _common(self, task: Task) -> int:
        """0 where no run was evaluated."""
        arms = [self.comparison.of(task, arm) for arm in self.comparison.arms]
        longest = [max((_last_step(run) for run in runs), default=0) for runs in arms]
        if max(longest, default=0) >= self._asked(task):
            return self._asked(task)
        return min((steps for steps in longest if steps), default=0)

    def _asked(self, task: Task) -> int:
        """The steps that every arm was asked for."""
        arms = [self.comparison.of(task, arm) for arm in self.comparison.arms]
        return min(max(run.steps_asked for run in runs) for runs in arms if runs)

    def _of(self, task: Task, arm: Arm) -> list[Score]:
        runs = self.comparison.of(task, arm)
        return [score for run in runs if (score := self._score(run, task)) is not None]

    def _score(self, run: Run, task: Task) -> Score | None:
        end = self.steps[task]
        slack = run.slack_steps(end)
        if not end or _last_step(run) < end - slack:
            at = f"evaluated until step {_last_step(run):,}, compared at {end:,}"
            why = at if _last_step(run) else f"{run.state}, not evaluated yet"
            if _last_step(run) or run.state not in ENDED:  # else it is named already
                self.comparison.warn(run, f"not in the scores: {why}")
            return None
        steps, values = run.records.series(SCORE)
        until = steps <= end + slack
        if not until.all():
            self.comparison.warn(
                run, f"evaluations after step {end:,} do not count: others end there"
            )
        steps, values = steps[until], values[until]
        if not len(steps) or steps[-1] < end - slack:
            self.comparison.warn(run, f"not in the scores: it was not evaluated at step {end:,}")
            return None
        late = steps > (1 - LAST_SHARE) * end + run.num_envs
        late[-1] = True  # also of a run that is a few vector steps long
        return Score(run, float(values[late].mean()), float(values.max()))


def _last_step(run: Run) -> int:
    return int(run.evaluations[-1]["step"]) if run.evaluations else 0


@dataclass(frozen=True)
class Suite:
    """Tasks that can be averaged, because they share a scale.

    Attributes:
        name: of the scale, and of the protocol where one scale is there under several.
        protocol: how all its tasks are played.
        tasks: theirs.
        scales: each one's; None for a single game in its own points.
    """

    name: str
    protocol: str
    tasks: list[Task]
    scales: Mapping[Task, Scale] | None

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
    alone = []
    for task in tasks:
        scale = scale_of(task.game)
        if scale is None:
            alone.append(Suite(f"{task}, game points", task.protocol, [task], None))
        else:
            found.setdefault((scale.name, task.rules), {})[task] = scale
    names = [name for name, _ in found]
    scaled = []
    for (name, rules), by_task in found.items():
        first = next(iter(by_task))
        several = f", {first.protocol}: {first.told_by or rules}"
        told = name if names.count(name) == 1 else name + several
        scaled.append(Suite(told, first.protocol, list(by_task), by_task))
    return [*scaled, *alone]
