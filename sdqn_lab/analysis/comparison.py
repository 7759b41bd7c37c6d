"""Runs sorted into arms and tasks: what is compared with what."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from typing import Any, TypeVar

import yaml

from sdqn_lab.analysis.stored_run import ORIGINS, TIMELESS, Run, comparable
from sdqn_lab.analysis.text import value_text
from sdqn_lab.checks.refused import Refused

Item = TypeVar("Item")
ENDED = frozenset({"failed", "lost", "missing", "stopped", "preempted"})
"""States in which a run is not at its end, and nobody works on it."""
NAME = "experiment"
"""The choice that names an arm."""
BASELINE = "dqn"
"""The name of the arm that others are compared with, unless another is asked for."""
SPIKING = "pl_"
"""What the name of a spiking arm begins with; behind it stands the name of its ANN baseline."""
Options = tuple[tuple[str, Any], ...]


@dataclass(frozen=True, order=True)
class Task:
    """A game under one protocol; scores of two tasks never share a column."""

    game: str
    protocol: str
    rules: str = field(repr=False)
    """Every setting of the protocol, as `key=value` pairs."""
    particular: str = field(default="", compare=False)
    """Where the game is played under several protocols: what only this one says."""

    def __str__(self) -> str:
        return f"{self.game} ({self.particular})" if self.particular else self.game


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
        known = {key: value for key, value in self.options if value is not None}
        pairs = [
            f"{'T' if key == 'time_window' else key}={value_text(value)}"
            for key, value in known.items()
        ]
        return self.name or ", ".join(pairs) or "all"


@dataclass(frozen=True)
class Notice:
    """Something about a run that a reader has to know."""

    run: str
    message: str


class Comparison:
    """Arms, tasks and the runs of each.

    Args:
        runs: all that were found, in whatever state.
        by: keys that distinguish arms, `ORIGINS` among them; None: all that vary within a game.
        against: `key=value` pairs that pick one arm as the baseline; None: the arm that is called
            dqn, or X beside pl_X; else the first arm.

    Raises:
        Refused: `by` or `against` names what is not there, or no run can be used.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        by: Sequence[str] | None = None,
        against: Sequence[str] | None = None,
    ) -> None:
        self.all_runs = list(runs)
        self.notices: list[Notice] = []
        self.runs = self._usable([key for key in by or () if key in ORIGINS])
        if not self.runs:
            lines = "; ".join(f"{notice.run}: {notice.message}" for notice in self.notices)
            raise Refused(
                "no run", None, f"none can be read: {lines}" if lines else "none was found"
            )
        self.varied = varied(self.runs)
        self.axes = self.varied if by is None else self._checked(by)
        # An experiment is a good name only if it says all of an arm: other options may differ.
        started = defaultdict(set)
        for run in self.runs:
            started[self._options_of(run)].add(run.choices.get(NAME))
        single = {options: names.pop() for options, names in started.items() if len(names) == 1}
        counts = Counter(single.values())
        self._names = {arm: name for arm, name in single.items() if name and counts[name] == 1}
        self.arms = _first_seen(self.arm_of(run) for run in self.runs)
        self.tasks = sorted(_tasks(self.runs))
        # Runs of one arm that differ in other settings are no seeds of each other.
        for axis, task in product(self.varied, self.tasks):
            options = [run.options for run in self.runs if task_of(run) == task]
            if axis not in self.axes and _adds(axis, self.axes, options):
                line = f"{task}: runs that differ in {axis} are counted as one arm"
                self.notices.append(Notice("several", line))
        self.baseline = self._baseline(against)

    def arm_of(self, run: Run) -> Arm:
        """The arm that a run belongs to."""
        options = self._options_of(run)
        return Arm(options, self._names.get(options))

    def _options_of(self, run: Run) -> Options:
        return tuple((axis, run.option(axis)) for axis in self.axes)

    @cached_property
    def cells(self) -> Mapping[tuple[Task, Arm], list[Run]]:
        """(task, arm) -> its runs."""
        # Equal tasks are one; only those listed know what is particular to them.
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

    def runs_of(self, arm: Arm) -> list[Run]:
        """The runs of an arm, task by task."""
        return [run for task in self.tasks for run in self.of(task, arm)]

    def warn(self, run: Run, message: str) -> None:
        """Record something about a run that a reader has to know, once."""
        notice = Notice(run.path.name, message)
        if notice not in self.notices:
            self.notices.append(notice)

    def _usable(self, origins: Sequence[str]) -> list[Run]:
        """The runs that say what they are, each once."""
        usable: dict[tuple[Any, ...], Run] = {}
        for run in self.all_runs:
            _ = run.records  # read now, so that its problems are known
            for problem in run.problems:
                self.warn(run, problem)
            if run.state in ENDED:
                error = str(run.status.get("error") or "").strip().splitlines()
                why = f": {error[-1]}" if error else ""
                at = f"{run.state} at step {run.steps:,} of {run.steps_asked:,}"
                self.warn(run, at + why)
            if not run.config:
                if run.state != "missing":
                    self.warn(run, "left out: without its config nothing says which arm it is")
                continue
            settings = tuple(item for item in run.options.items() if item[0] != NAME)
            same = (task_of(run), run.seed, settings, *map(run.option, origins))
            # A directory that was copied, or a cell that was run in two sweeps, is no second seed.
            other = usable.setdefault(same, run)
            if other is not run:
                longer, shorter = (run, other) if run.steps > other.steps else (other, run)
                reason = f"the same settings and seed as {longer.path}, which is as long or longer"
                self.warn(shorter, f"left out: {reason}; --by sweep,commit would compare them")
                usable[same] = longer
        return list(usable.values())

    def _checked(self, by: Sequence[str]) -> tuple[str, ...]:
        known = _first_seen(key for run in self.runs for key in run.options)
        for key in by:
            if key not in (*known, *ORIGINS):
                some = ",".join(self.varied or known[:9])
                rule = "no run has it" if key != "env" else "names games, which are never pooled"
                raise Refused("--by", key, rule, some)
        return tuple(by)

    def _baseline(self, against: Sequence[str] | None) -> Arm:
        if against is None:
            names = {arm.name: arm for arm in self.arms}
            paired = (arm for arm in self.arms if f"{SPIKING}{arm.name}" in names)
            return names.get(BASELINE) or next(paired, self.arms[0])
        found = self.arms
        for pair in against:
            key, sign, value = pair.partition("=")
            if not sign:
                raise Refused("--against", pair, "not key=value", "--against experiment=dqn")
            # A commit such as 12345678 looks like a number.
            wanted = ({_parsed(value)}, {value})
            found = [a for a in found if {r.option(key) for r in self.runs_of(a)} in wanted]
        if len(found) == 1:
            return found[0]
        how = f"{len(found)} arms fit" if found else "no arm fits"
        arms = "; ".join(map(str, self.arms))
        key = ",".join(against)
        raise Refused("--against", key, how, f"key=value so that one of these is meant: {arms}")


def arm_labels(runs: Sequence[Run]) -> dict[Run, str]:
    """What each of several runs is called in every table: the name of its arm.

    A run whose config cannot be read is called by its directory.
    """
    if not any(run.config for run in runs):
        return {run: run.path.name for run in runs}
    comparison = Comparison(runs)
    return {run: str(comparison.arm_of(run)) if run.config else run.path.name for run in runs}


def own_label(choices: Mapping[str, str | None], time_window: int) -> str:
    """What a run is called that is compared with nothing: `lif, popnorm, atan, T=4`.

    The experiment that it was started as is no name for it, because other options of the same
    command may have changed what that experiment sets.
    """
    parts = [choices.get("neuron"), choices.get("norm")]
    if choices.get("neuron") != TIMELESS:
        parts += [choices.get("surrogate"), f"T={time_window}"]
    return ", ".join(map(str, parts))


def task_of(run: Run) -> Task:
    """The game of a run and how it is played."""
    rules = sorted(run.config.get("protocol", {}).items())
    pairs = ", ".join(f"{key}={value_text(value)}" for key, value in rules)
    return Task(run.game, str(run.choices.get("protocol", "?")), pairs)


def _tasks(runs: Iterable[Run]) -> Iterator[Task]:
    """Every task once, named by its protocol where the game has several."""
    found = {task_of(run) for run in runs}
    for task in found:
        beside = [set(other.rules.split(", ")) for other in found if other.game == task.game]
        own = [rule for rule in task.rules.split(", ") if rule not in set.intersection(*beside)]
        yield replace(task, particular=", ".join([task.protocol, *own]) if beside[1:] else "")


def varied(runs: Sequence[Run]) -> tuple[str, ...]:
    """The keys in which the runs of a game differ, without those that follow from others.

    An experiment only names a combination of them and is none itself.
    """
    # Families of games need settings of their own, and these are no ablation.
    by_game: dict[Task, list[dict[str, Any]]] = defaultdict(list)
    for run in runs:
        by_game[task_of(run)].append(run.options)
    kept: list[str] = []
    for key in _first_seen(key for run in runs for key in run.options):
        if key != NAME and any(_adds(key, kept, options) for options in by_game.values()):
            kept.append(key)
    return tuple(kept)


def _adds(key: str, kept: Sequence[str], options: Sequence[Mapping[str, Any]]) -> bool:
    """Whether runs that are equal in all kept keys differ in this one."""
    seen: dict[tuple[Any, ...], Any] = {}
    for chosen in options:
        group = tuple(chosen.get(axis) for axis in kept)
        if seen.setdefault(group, chosen.get(key)) != chosen.get(key):
            return True
    return False


def _parsed(text: str) -> Any:
    """A value of the command line as a config has it, so that 2 and 2.0 are one value."""
    try:
        value = comparable(yaml.safe_load(text))
        return float(value) if isinstance(value, str) else value  # YAML takes 1e-05 for text
    except (ValueError, yaml.YAMLError):
        return text


def _first_seen(items: Iterable[Item]) -> list[Item]:
    return list(dict.fromkeys(items))
