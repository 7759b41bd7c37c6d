"""Runs sorted into arms and tasks: what is compared with what."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

import yaml

from sdqn_lab.analysis.run import Run, comparable

Item = TypeVar("Item")
ENDED = frozenset({"failed", "lost", "missing", "stopped", "preempted"})
"""States in which a run is not at its end, and nobody works on it."""
NAME = "experiment"
"""The choice that names an arm."""
BASELINE = "dqn"
"""The name of the arm that others are compared with, unless another is asked for."""
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
    told_by: str = field(default="", compare=False)
    """Where the game is played under several protocols: what is particular to this one."""

    def __str__(self) -> str:
        return f"{self.game} ({self.told_by})" if self.told_by else self.game


@dataclass(frozen=True)
class Arm:
    """A combination of the choices that vary.

    Attributes:
        options: what varies, with this arm's values.
        name: of the experiment that all its runs were started as, and no other arm's; else None.
    """

    options: Options
    name: str | None = field(default=None, compare=False)

    def __str__(self) -> str:
        told = [(key, value) for key, value in self.options if value is not None]
        return self.name or ", ".join(_word(key, value) for key, value in told) or "all"


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
        against: ``key=value`` words that pick one arm as the baseline; None: the arm that is
            called dqn, else the first arm.

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
        self._names = self._experiments()
        self.arms = _first_seen(self.arm_of(run) for run in self.runs)
        self.tasks = sorted(_tasks(self.runs))
        self._note_pooled()
        self.baseline = self._baseline(against)

    def arm_of(self, run: Run) -> Arm:
        """The arm that a run belongs to."""
        options = self._options_of(run)
        return Arm(options, self._names.get(options))

    def _options_of(self, run: Run) -> Options:
        return tuple((axis, run.options.get(axis)) for axis in self.axes)

    def _experiments(self) -> dict[Options, str]:
        """The name of each arm that has one of its own."""
        told: dict[Options, set[str | None]] = defaultdict(set)
        for run in self.runs:
            told[self._options_of(run)].add(run.choices.get(NAME))
        single = {options: names.pop() for options, names in told.items() if len(names) == 1}
        counts = Counter(single.values())
        return {arm: name for arm, name in single.items() if name and counts[name] == 1}

    @cached_property
    def cells(self) -> Mapping[tuple[Task, Arm], list[Run]]:
        """(task, arm) -> its runs."""
        listed = {task: task for task in self.tasks}
        cells: dict[tuple[Task, Arm], list[Run]] = defaultdict(list)
        for run in self.runs:
            cells[listed[task_of(run)], self.arm_of(run)].append(run)
        return cells

    @property
    def games(self) -> list[str]:
        """Every game once, under however many protocols it is played."""
        return _first_seen(task.game for task in self.tasks)

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
            if run.state in ENDED:
                self.warn(run, _state_line(run))
            if not run.config:
                if run.state != "missing":
                    self.warn(run, "left out: without its config nothing says which arm it is")
                continue
            settings = tuple(item for item in run.options.items() if item[0] != NAME)
            same = (task_of(run), run.seed, settings)
            other = usable.get(same)
            if other is None:
                usable[same] = run
                continue
            longer, shorter = (run, other) if run.steps > other.steps else (other, run)
            same_as = f"the same settings and seed as {longer.path}, which is as long or longer"
            self.warn(shorter, f"left out: {same_as}")
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
            return next((arm for arm in self.arms if arm.name == BASELINE), self.arms[0])
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
        told = {run.options.get(key) for run in self.runs if self.arm_of(run) == arm}
        return told == {_parsed(value)}


def task_of(run: Run) -> Task:
    """The game of a run and how it is played."""
    rules = run.config.get("protocol", {})
    words = ", ".join(f"{key}={in_words(value)}" for key, value in sorted(rules.items()))
    return Task(run.game, str(run.choices.get("protocol", "?")), words)


def _tasks(runs: Iterable[Run]) -> list[Task]:
    found = {task_of(run) for run in runs}
    by_game: dict[str, list[Task]] = defaultdict(list)
    for task in found:
        by_game[task.game].append(task)
    return [replace(task, told_by=_particular(task, by_game[task.game])) for task in found]


def _particular(task: Task, beside: Sequence[Task]) -> str:
    """The name of the protocol and the rules that not all tasks of the game have."""
    if len(beside) == 1:
        return ""
    shared = set.intersection(*(set(other.rules.split(", ")) for other in beside))
    return ", ".join([task.protocol, *(r for r in task.rules.split(", ") if r not in shared)])


def varied(runs: Sequence[Run]) -> tuple[str, ...]:
    """The keys that tell the runs of a game apart, without those that follow from others.

    An experiment only names a combination of them and is none itself.
    """
    by_game: dict[Task, list[dict[str, Any]]] = defaultdict(list)
    for run in runs:
        by_game[task_of(run)].append(run.options)
    kept: list[str] = []
    for key in _first_seen(key for run in runs for key in run.options):
        if key != NAME and any(_adds(key, kept, told) for told in by_game.values()):
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
    return f"{'T' if key == 'time_window' else key}={in_words(value)}"


def in_words(value: Any) -> str:
    """As it is written on the command line."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "none"}[value]
    if isinstance(value, tuple):
        return f"[{','.join(map(in_words, value))}]"
    return str(value)


def _parsed(word: str) -> Any:
    """A word of the command line as a config has it, so that 2 and 2.0 are one value."""
    try:
        value = comparable(yaml.safe_load(word))
    except yaml.YAMLError:
        return word
    try:
        return float(value) if isinstance(value, str) else value  # YAML takes 1e-05 for text
    except ValueError:
        return value


def _first_seen(items: Iterable[Item]) -> list[Item]:
    return list(dict.fromkeys(items))
