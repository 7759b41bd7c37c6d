"""The comparison as a W&B report; the only module of this room that knows W&B's client.

Tables go there as they are. Curves are drawn by W&B from the runs that were logged to it, found by
the ids that they have there: of runs that share a name the comparison may know only one.
"""

from __future__ import annotations

import re
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from sdqn_lab.analysis.comparison import Comparison, Task
from sdqn_lab.analysis.records import SCORE
from sdqn_lab.analysis.run import FIRING, GROUPS, SILENT, Run
from sdqn_lab.analysis.tables import Table
from sdqn_lab.tracking.wandb import Address, environment, has_key

if TYPE_CHECKING:
    import wandb
    from wandb_workspaces.expr import And
    from wandb_workspaces.reports.v2 import interface as wr

# The client takes more than a second to import, and only those who publish shall pay.

WORDS = "--wandb ENTITY/PROJECT"
SYNC = "python -m sdqn_lab.sweep sync DIR"
LONGEST_TITLE = 128
"""In characters; W&B takes no more."""
FEWEST_LINES = 10
"""Lines that W&B shows in a plot unless it is told to show more."""
COLUMNS, WIDTH, HEIGHT = 3, 8, 6
"""Panels side by side, and the size of each; a grid is 24 wide."""
UNITS = {"step": "agent steps", "frames": "emulator frames"}
BOUNDED: Mapping[str, Any] = {
    "silent": True,
    "mode": "online",
    "x_graphql_timeout_seconds": 8.0,
    "x_graphql_retry_max": 1,
    "x_graphql_retry_wait_min_seconds": 0.5,
    "x_graphql_retry_wait_max_seconds": 1.0,
}
"""Two attempts for each question to the server; left alone, the client tries for many minutes."""
REFUSED = (401, 403)
"""HTTP's ways to say that it is the key."""


class ReportError(Exception):
    """There is no report at W&B; the message says why and what to write."""


class Target(NamedTuple):
    """A project of W&B."""

    entity: str
    project: str

    def __str__(self) -> str:
        return f"{self.entity}/{self.project}"


def parse_target(text: str) -> Target:
    """Read ``ENTITY/PROJECT``.

    Raises:
        ReportError: it has another form.
    """
    parts = re.fullmatch(r"([\w.-]+)/([^\\/#?%:]+)", text)
    if parts is None:
        raise ReportError(f"--wandb {text}: not a user or team and a project; write {WORDS}")
    return Target(*parts.groups())


def build(comparison: Comparison, tables: Sequence[Table], target: Target, title: str) -> wr.Report:
    """Lay the report out; needs neither key nor network.

    Args:
        comparison: arms, tasks and runs.
        tables: shown as they are, in this order.
        target: the report's project; also where runs are whose records name no entity.
        title: the heading.
    """
    from wandb_workspaces.reports.v2 import interface as wr

    texts = [_compared(comparison), *(table.markdown() for table in tables)]
    return wr.Report(
        entity=target.entity,
        project=target.project,
        title=title[:LONGEST_TITLE],
        description=_description(comparison),
        blocks=[
            *(wr.MarkdownBlock(text=text) for text in texts),
            *(block for task in comparison.tasks for block in _of_task(comparison, task, target)),
        ],
        width="fluid",
    )


def publish(report: wr.Report) -> str:
    """Save the report at W&B and return its address.

    A question that the server leaves open for twenty seconds is given up, and all else with it.

    Raises:
        ReportError: no key, a wrong one, no server, no such project, or no permission.
    """
    try:
        with _client():
            _check(report)
            report.save()
            return str(report.url)
    except ReportError:
        raise
    except Exception as error:  # the client has many ways to say no
        raise ReportError(_why(error)) from error


def logged(axis: str) -> str:
    """The key of an axis in the config that W&B stores, which puts values into ``value``."""
    if axis in (*GROUPS, "env"):
        return f"choices.value.{axis}"
    first, dot, rest = axis.partition(".")
    return f"{first}.value{dot}{rest}"


def _description(comparison: Comparison) -> str:
    tasks, arms, seeds = len(comparison.tasks), len(comparison.arms), len(_seeds(comparison))
    protocols = ", ".join(sorted({task.protocol for task in comparison.tasks}))
    return (
        f"Games: {tasks}; arms: {arms}; seeds: {seeds}; protocol: {protocols}; "
        f"baseline: {comparison.baseline}"
    )


def _compared(comparison: Comparison) -> str:
    """What is compared with what, as a list."""
    rules = dict.fromkeys((task.protocol, task.rules) for task in comparison.tasks)
    lines = [
        f"**Games:** {', '.join(map(str, comparison.tasks))}",
        f"**Arms**, told apart by {', '.join(comparison.axes) or 'nothing'}: "
        f"{'; '.join(map(str, comparison.arms))}",
        f"**Baseline:** {comparison.baseline}",
        f"**Seeds:** {', '.join(_seeds(comparison))}",
        *(f"**Protocol {name}:** {words}" for name, words in rules),
    ]
    return "\n".join(f"- {line}" for line in lines)


def _seeds(comparison: Comparison) -> list[str]:
    return sorted({run.seed for run in comparison.runs}, key=lambda seed: (len(seed), seed))


def _of_task(
    comparison: Comparison, task: Task, target: Target
) -> Iterator[wr.H2 | wr.MarkdownBlock | wr.PanelGrid]:
    """Heading, what the curves show, and the curves, if there are any."""
    from wandb_workspaces.reports.v2 import interface as wr

    runs = [run for arm in comparison.arms for run in comparison.of(task, arm)]
    homes = _homes(runs, target)
    yield wr.H2(text=str(task))
    yield wr.MarkdownBlock(text=_legend(comparison, len(runs), sum(map(len, homes.values()))))
    if not homes:
        return
    runsets = [
        wr.Runset(
            entity=home.entity,
            project=home.project,
            name=str(task),
            filters=_filter(runs[0], ids),
            groupby=[f"config.{logged(axis)}" for axis in comparison.axes],
        )
        for home, ids in homes.items()
    ]
    lines = len(comparison.arms) if comparison.axes else len(runs)
    yield wr.PanelGrid(runsets=runsets, panels=[*_panels(runs, max(lines, FEWEST_LINES))])


def _legend(comparison: Comparison, runs: int, there: int) -> str:
    arms = "A line is an arm: the mean over its runs, with the standard error as its band."
    line = arms if comparison.axes else "A line is a run."
    if there == runs:
        return line
    away = f"{runs - there} of {runs} runs were never logged to W&B and are missing here"
    return f"{line} **{away};** `{SYNC}` uploads them."


def _homes(runs: Sequence[Run], target: Target) -> Mapping[Target, list[str]]:
    """Project -> ids of the runs that were logged to it."""
    homes: dict[Target, list[str]] = defaultdict(list)
    for run in runs:
        with suppress(ValueError):  # damaged, which is no better than missing
            if address := Address.read(run.path):
                home = Target(address.entity or target.entity, address.project)
                homes[home].append(address.id)
    return homes


def _filter(run: Run, ids: Sequence[str]) -> And:
    """The game, for a person to read, and these runs of it alone."""
    from wandb_workspaces import expr

    own = run.choices.get("env") == "gymnasium"
    game = expr.Config(logged("env.id" if own else "env"))
    return expr.And(game.isin([run.game]), expr.Metric("ID").isin(list(ids)))


def _panels(runs: Sequence[Run], lines: int) -> list[wr.LinePlot]:
    """Row by row."""
    from wandb_workspaces.reports.v2 import interface as wr

    return [
        wr.LinePlot(
            title=title,
            x=x,
            y=[y],
            title_x=UNITS[x],
            groupby_aggfunc="mean",
            groupby_rangefunc="stderr",
            point_visualization_method="sampling",  # the other one's band is that of extremes
            max_runs_to_show=lines,
            layout=_place(number),
        )
        for number, (title, x, y) in enumerate(_curves(runs))
    ]


def _curves(runs: Sequence[Run]) -> Iterator[tuple[str, str, str]]:
    """Title, x and y of every panel."""
    layers = dict.fromkeys(layer for run in runs for layer in run.layers)
    yield "Return in evaluation", "step", SCORE
    yield "Return in evaluation, by frames", "frames", SCORE
    yield "Return in training", "step", "train/return"
    for layer in layers:
        yield f"Firing rate, {layer}", "step", f"{FIRING}{layer}"
    for layer in layers:
        yield f"Share of silent units, {layer}", "step", f"{SILENT}{layer}"
    yield "TD loss", "step", "loss/td"
    yield "Agent steps per second", "step", "time/steps_per_second"


def _place(number: int) -> wr.Layout:
    from wandb_workspaces.reports.v2 import interface as wr

    row, column = divmod(number, COLUMNS)
    return wr.Layout(x=WIDTH * column, y=HEIGHT * row, w=WIDTH, h=HEIGHT)


@contextmanager
def _client() -> Iterator[None]:
    """A client that is silent, gives up soon and leaves no files."""
    import wandb

    with tempfile.TemporaryDirectory(prefix="sdqn_lab-", ignore_cleanup_errors=True) as scratch:
        with environment("WANDB_CACHE_DIR", scratch):
            wandb.setup(settings=wandb.Settings(**BOUNDED))
        try:
            yield
        finally:
            with suppress(Exception, SystemExit):
                wandb.teardown()


def _check(report: wr.Report) -> None:
    """Refuse what would make the client ask a person, or found a project that has a typo."""
    import wandb
    from wandb_workspaces.reports.v2 import interface as wr

    if not has_key():
        raise ReportError("no API key configured; write wandb login, or set WANDB_API_KEY")
    api = wandb.Api()
    _check_project(api, Target(report.entity, report.project), f"write an existing {WORDS}")
    grids = [block for block in report.blocks if isinstance(block, wr.PanelGrid)]
    for home in {Target(runs.entity, runs.project) for grid in grids for runs in grid.runsets}:
        _check_project(api, home, f"the runs belong there, and {SYNC} uploads them")


def _check_project(api: wandb.Api, target: Target, advice: str) -> None:
    if target.project not in {project.name for project in api.projects(target.entity)}:
        host = api.settings["base_url"]
        raise ReportError(f"{host} shows this key no project {target}; {advice}")


def _why(error: Exception) -> str:
    """A line for what the client raised, and what to write."""
    words = " ".join(str(error).rpartition("while retrying: ")[2].split())[:300]
    if _is_about_the_key(error):
        return f"W&B does not accept the key: {words}; write wandb login --relogin"
    return f"W&B did not take the report: {words}; mend that and write the command again"


def _is_about_the_key(error: Exception) -> bool:
    """Whether it is malformed, or the server refused it."""
    import wandb

    if isinstance(error, wandb.errors.AuthenticationError) and error.__cause__ is None:
        return True
    response = getattr(error.__cause__ or error, "response", None)
    return getattr(response, "http_status", None) in REFUSED
