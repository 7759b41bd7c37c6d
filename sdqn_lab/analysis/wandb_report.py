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
from sdqn_lab.analysis.sections.section import Table
from sdqn_lab.analysis.stored_run import FIRING, GROUPS, ORIGINS, SILENT, Run
from sdqn_lab.checks.extras import WANDB, WANDB_REPORTS
from sdqn_lab.checks.refused import Refused
from sdqn_lab.tracking.wandb import Address, environment, has_key

if TYPE_CHECKING:
    from wandb_workspaces.reports.v2 import interface as wr

# The client takes more than a second to import, so only those who publish import it.

FLAG = "--wandb"
SYNC = "python -m sdqn_lab.sweep sync DIR"
MAX_TITLE = 128
"""In characters; W&B takes no more."""
MIN_LINES = 10
"""Lines that W&B shows in a plot unless it is asked to show more."""
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


class Target(NamedTuple):
    """A project of W&B."""

    entity: str
    project: str

    def __str__(self) -> str:
        return f"{self.entity}/{self.project}"


def parse_target(text: str) -> Target:
    """Read `ENTITY/PROJECT`.

    Raises:
        Refused: it has another form, or a package is not installed.
    """
    for extra in (WANDB, WANDB_REPORTS):
        extra.demand(FLAG)
    parts = re.fullmatch(r"([\w.-]+)/([^\\/#?%:]+)", text)
    if parts is None:
        raise Refused(FLAG, text, "not a user or team and a project", "ENTITY/PROJECT")
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

    tasks, arms, baseline = comparison.tasks, comparison.arms, comparison.baseline
    rules = dict.fromkeys((task.protocol, task.rules) for task in tasks)
    protocols = ", ".join(sorted({name for name, _ in rules}))
    seeds = sorted({run.seed for run in comparison.runs}, key=lambda seed: (len(seed), seed))
    compared = [
        f"- **Games:** {', '.join(map(str, tasks))}",
        f"- **Arms**, distinguished by {', '.join(comparison.axes) or 'nothing'}: "
        f"{'; '.join(map(str, arms))}",
        f"- **Baseline:** {baseline}",
        f"- **Seeds:** {', '.join(seeds)}",
        *(f"- **Protocol {name}:** {pairs}" for name, pairs in rules),
    ]
    texts = ["\n".join(compared), *(table.markdown() for table in tables)]
    return wr.Report(
        entity=target.entity,
        project=target.project,
        title=title[:MAX_TITLE],
        description=f"Games: {len(tasks)}; arms: {len(arms)}; seeds: {len(seeds)}; protocol: "
        f"{protocols}; baseline: {baseline}",
        blocks=[
            *(wr.MarkdownBlock(text=text) for text in texts),
            *(block for task in tasks for block in _of_task(comparison, task, target)),
        ],
        width="fluid",
    )


def _of_task(comparison: Comparison, task: Task, target: Target) -> Iterator[wr.BlockTypes]:
    """Heading, what the curves show, and the curves, if there are any."""
    from wandb_workspaces import expr
    from wandb_workspaces.reports.v2 import interface as wr

    runs = [run for arm in comparison.arms for run in comparison.of(task, arm)]
    homes: dict[Target, list[str]] = defaultdict(list)
    for run in runs:
        with suppress(ValueError, RecursionError):  # damaged, which is no better than missing
            if address := Address.read(run.path):
                homes[Target(address.entity or target.entity, address.project)].append(address.id)
    arms = "A line is an arm: the mean over its runs, with the standard error as its band."
    line = arms if comparison.axes else "A line is a run."
    if away := len(runs) - sum(map(len, homes.values())):
        line += f" **{away} of {len(runs)} runs were never logged to W&B and are missing here;**"
        line += f" `{SYNC}` uploads them."
    yield wr.H2(text=str(task))
    yield wr.MarkdownBlock(text=line)
    if not homes:
        return
    own = runs[0].choices.get("env") == "gymnasium"
    # The game is for a person to read; the ids pick the runs.
    game = expr.Config(logged("env.id" if own else "env")).isin([task.game])
    runsets = [
        wr.Runset(
            entity=home.entity,
            project=home.project,
            name=str(task),
            filters=expr.And(game, expr.Metric("ID").isin(ids)),
            groupby=[f"config.{logged(axis)}" for axis in comparison.axes if axis not in ORIGINS],
        )
        for home, ids in homes.items()
    ]
    lines = len(comparison.arms) if comparison.axes else len(runs)
    yield wr.PanelGrid(runsets=runsets, panels=[*_panels(runs, max(lines, MIN_LINES))])


def logged(axis: str) -> str:
    """The key of an axis in the config that W&B stores, which puts values into `value`."""
    if axis in (*GROUPS, "env"):
        return f"choices.value.{axis}"
    first, dot, rest = axis.partition(".")
    return f"{first}.value{dot}{rest}"


def _panels(runs: Sequence[Run], lines: int) -> list[wr.LinePlot]:
    """Row by row."""
    from wandb_workspaces.reports.v2 import interface as wr

    layers = list(dict.fromkeys(layer for run in runs for layer in run.layers))
    curves = [
        ("Return in evaluation", "step", SCORE),
        ("Return in evaluation, by frames", "frames", SCORE),
        ("Return in training", "step", "train/return"),
        *((f"Firing rate, {layer}", "step", f"{FIRING}{layer}") for layer in layers),
        *((f"Share of silent units, {layer}", "step", f"{SILENT}{layer}") for layer in layers),
        ("TD loss", "step", "loss/td"),
        ("Agent steps per second", "step", "time/steps_per_second"),
    ]
    panels = []
    for number, (title, x, y) in enumerate(curves):
        row, column = divmod(number, COLUMNS)
        panels.append(
            wr.LinePlot(
                title=title,
                x=x,
                y=[y],
                title_x=UNITS[x],
                groupby_aggfunc="mean",
                groupby_rangefunc="stderr",
                point_visualization_method="sampling",  # the other one's band is that of extremes
                max_runs_to_show=lines,
                layout=wr.Layout(x=WIDTH * column, y=HEIGHT * row, w=WIDTH, h=HEIGHT),
            )
        )
    return panels


def publish(report: wr.Report) -> str:
    """Save the report at W&B and return its address.

    A question that the server leaves open for twenty seconds is given up, and all else with it.

    Raises:
        Refused: no key, a wrong one, no server, no such project, or no permission.
    """
    target = Target(report.entity, report.project)
    try:
        with _client():
            if not has_key():
                instead = "wandb login, or set WANDB_API_KEY"
                raise Refused(f"{FLAG} {target}", None, "no API key configured", instead)
            _check_projects(report, target)
            report.save()
            return str(report.url)
    except Refused:
        raise
    except Exception as error:  # the client has many ways to say no
        reason = " ".join(str(error).rpartition("while retrying: ")[2].split())[:300]
        rule = f"W&B did not take the report: {reason}"
        instead = "the command again once that is mended; if it is the key, wandb login --relogin"
        raise Refused(f"{FLAG} {target}", None, rule, instead) from error


@contextmanager
def _client() -> Iterator[None]:
    """A client that is silent, gives up soon and leaves no files."""
    import wandb

    with tempfile.TemporaryDirectory(prefix="sdqn_lab-", ignore_cleanup_errors=True) as scratch:
        # The client looks at this once, when it is set up.
        with environment("WANDB_CACHE_DIR", scratch):
            wandb.setup(settings=wandb.Settings(**BOUNDED))
        try:
            yield
        finally:
            with suppress(Exception, SystemExit):
                wandb.teardown()


def _check_projects(report: wr.Report, target: Target) -> None:
    """Refuse a project that the key cannot see."""
    import wandb
    from wandb_workspaces.reports.v2 import interface as wr

    # The client would found a project whose name has a typo.
    api = wandb.Api()
    grids = [block for block in report.blocks if isinstance(block, wr.PanelGrid)]
    homes = {Target(runs.entity, runs.project) for grid in grids for runs in grid.runsets}
    for home in (target, *sorted(homes - {target})):
        if home.project not in {project.name for project in api.projects(home.entity)}:
            rule = f"{api.settings['base_url']} shows this key no project {home}"
            instead = f"an existing {FLAG} ENTITY/PROJECT"
            if home != target:
                rule, instead = f"{rule}, where runs belong", f"{SYNC}, which uploads them"
            raise Refused(f"{FLAG} {target}", None, rule, instead)
