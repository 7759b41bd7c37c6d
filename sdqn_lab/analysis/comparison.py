"""Runs sorted into arms and tasks: what is compared with what."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

from sdqn_lab.analysis.run import TIMELESS, Run

Item = TypeVar("Item")
Options = tuple[tuple[str, Any], ...]


class ComparisonError(Exception):
    """What was asked for cannot be compared; the message says why and what to write."""


@dataclass(frozen=True, order=True)
class Task:
    """A game under one protocol; scores of two tasks never share a column."""

    game: str
    protocol: str
    rules: str = field(repr=False)
    """Every setting of the protocol, in words."""
    alone: bool = field(default=True, compare=False)
    """Whether the game is played under no other protocol here."""

    def __str__(self) -> str:
        return self.game if self.alone else f"{self.game} ({self.protocol}: {self.rules})"


@dataclass(frozen=True)
class Arm:
    """A combination of the choices that vary."""

    options: Options

    def __str__(self) -> str:
        told = [(key, value) for key, value in self.options if value is not None]
        return ", ".join(_word(key, value) for key, value in told) or "all"


@dataclass(frozen=True)
class Notice:
    """Something about a run that a reader has to know."""

    run: str
    message: str


class Comparison:
    """Arms, tasks and the runs of each.

    Args:
        runs: all that were found, in whatever state.
        by: keys that tell arms apart; None: all that vary within a game.
        against: ``key=value`` words that pick one arm as the baseline; None: the DQN if there is
            one, else the first arm.

    Raises:
        ComparisonError: ``by`` or ``against`` names what is not there, or no run can be used.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        by: Sequence[str] | None = None,
        against: Sequence[str] | None = None,
    ) -> None:
        self.all_runs = list(runs)
        self.notices: list[Notice] = []
        self.runs = self._usable()
        if not self.runs:
            lines = "; ".join(f"{notice.run}: {notice.message}" for notice in self.notices)
            raise ComparisonError(f"no run can be read: {lines}" if lines else "no run was found")
        self.varied = varied(self.runs)
        self.axes = self.varied if by is None else _checked(by, self.runs)
        self.arms = _first_seen(self.arm_of(run) for run in self.runs)
        self.tasks = sorted(_tasks(self.runs))
        self._note_pooled()
        self.baseline = self._baseline(against)

    def arm_of(self, run: Run) -> Arm:
        """The arm that a run belongs to."""
        return Arm(tuple((axis, run.options.get(axis)) for axis in self.axes))

    @cached_property
    def cells(self) -> Mapping[tuple[Task, Arm], list[Run]]:
        """(task, arm) -> its runs."""
        cells: dict[tuple[Task, Arm], list[Run]] = defaultdict(list)
        for run in self.runs:
            cells[task_of(run), self.arm_of(run)].append(run)
        return cells

    @property
    def begun(self) -> list[Task]:
        """Tasks in which a run has been evaluated: those that figures show."""
        seen = {task for (task, _), runs in self.cells.items() if any(r.evaluations for r in runs)}
        return [task for task in self.tasks if task in seen]

    def of(self, task: Task, arm: Arm) -> list[Run]:
        """The runs of an arm on a task."""
        return self.cells.get((task, arm), [])

    def warn(self, run: Run, message: str) -> None:
        """Tell the reader something about a run, once."""
        notice = Notice(run.path.name, message)
        if notice not in self.notices:
            self.notices.append(notice)

    def _usable(self) -> list[Run]:
        usable: dict[tuple[Any, ...], Run] = {}
        for run in self.all_runs:
            _ = run.records  # read now, so that its problems are known
            for problem in run.problems:
                self.warn(run, problem)
            if run.state in ("failed", "lost", "missing", "stopped", "preempted"):
                self.warn(run, _state_line(run))
            if not run.config:
                self.warn(run, "left out: without its config nothing says which arm it is")
                continue
            same = (task_of(run), run.seed, tuple(run.options.items()))
            other = usable.get(same)
            if other is None:
                usable[same] = run
                continue
            longer, shorter = (run, other) if run.steps > other.steps else (other, run)
            self.warn(
                shorter, f"left out: the same run as {longer.path}, which is as long or longer"
            )
            usable[same] = longer
        return list(usable.values())

    def _note_pooled(self) -> None:
        """Whoever pools what differs is told so."""
        for axis in self.varied:
            for task in self.tasks:
                options = [run.options for run in self.runs if task_of(run) == task]
                if axis not in self.axes and _adds(axis, self.axes, options):
                    line = f"{task}: runs that differ in {axis} are counted as one arm"
                    self.notices.append(Notice("several", line))

    def _baseline(self, against: Sequence[str] | None) -> Arm:
        if against is None:
            return next((arm for arm in self.arms if self._is_dqn(arm)), self.arms[0])
        wanted = dict(_pair(word) for word in against)
        found = [arm for arm in self.arms if all(self._fits(arm, *item) for item in wanted.items())]
        if len(found) == 1:
            return found[0]
        arms = "; ".join(map(str, self.arms))
        how = "no arm fits" if not found else f"{len(found)} arms fit"
        raise ComparisonError(
            f"--against {','.join(against)}: {how}; write key=value so that one of these is "
            f"meant: {arms}"
        )

    def _fits(self, arm: Arm, key: str, value: str) -> bool:
        told = {_value(run.options.get(key)) for run in self.runs if self.arm_of(run) == arm}
        return told == {value}

    def _is_dqn(self, arm: Arm) -> bool:
        of_arm = [run for run in self.runs if self.arm_of(run) == arm]
        plain = {(run.choices.get("neuron"), run.choices.get("norm")) for run in of_arm}
        return plain == {(TIMELESS, "none")}


def task_of(run: Run) -> Task:
    """The game of a run and how it is played."""
    rules = run.config.get("protocol", {})
    words = ", ".join(f"{key}={_value(value)}" for key, value in sorted(rules.items()))
    return Task(run.game, str(run.choices.get("protocol", "?")), words)


def _tasks(runs: Iterable[Run]) -> list[Task]:
    found = {task_of(run) for run in runs}
    games = [task.game for task in found]
    return [
        Task(task.game, task.protocol, task.rules, alone=games.count(task.game) == 1)
        for task in found
    ]


def varied(runs: Sequence[Run], without: Sequence[str] = ()) -> tuple[str, ...]:
    """The keys that tell the runs of a game apart, without those that follow from others.

    Args:
        runs: of any games.
        without: keys that are not to be used.
    """
    by_game: dict[Task, list[dict[str, Any]]] = defaultdict(list)
    for run in runs:
        by_game[task_of(run)].append(run.options)
    kept: list[str] = []
    for key in _first_seen(key for run in runs for key in run.options):
        if key not in without and any(_adds(key, kept, told) for told in by_game.values()):
            kept.append(key)
    return tuple(kept)


def _adds(key: str, kept: Sequence[str], options: Sequence[Mapping[str, Any]]) -> bool:
    """Whether runs that are equal in all kept keys differ in this one."""
    seen: dict[tuple[Any, ...], Any] = {}
    for told in options:
        group = tuple(told.get(axis) for axis in kept)
        if seen.setdefault(group, told.get(key)) != told.get(key):
            return True
    return False


def _checked(by: Sequence[str], runs: Sequence[Run]) -> tuple[str, ...]:
    known = _first_seen(key for run in runs for key in run.options)
    for key in by:
        if key not in known:
            some = ", ".join([*varied(runs)] or known[:9])
            raise ComparisonError(f"--by {key}: no run has it; write keys such as {some}")
    return tuple(by)


def _pair(word: str) -> tuple[str, str]:
    key, sign, value = word.partition("=")
    if not sign:
        raise ComparisonError(f"--against {word}: not key=value; write e.g. experiment=dqn")
    return key, value


def _state_line(run: Run) -> str:
    error = str(run.status.get("error") or "").strip().splitlines()
    why = f": {error[-1]}" if error else ""
    return f"{run.state} at step {run.steps:,} of {run.steps_asked:,}{why}"


def _word(key: str, value: Any) -> str:
    if key == "experiment":
        return str(value)
    return f"{'T' if key == 'time_window' else key}={_value(value)}"


def _value(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "none"}[value]
    return str(value)


def _first_seen(items: Iterable[Item]) -> list[Item]:
    return list(dict.fromkeys(items))
