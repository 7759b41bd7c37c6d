"""Learning curves of the cells of a sweep."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sdqn_lab.analysis.run import Run

PANELS_A_ROW = 3


def draw_learning_curves(runs: list[Run], path: Path) -> bool:
    """Draw evaluation returns against agent steps, a panel a game, a line a run.

    The band is one standard deviation over the episodes of each evaluation; it says nothing of the
    spread over seeds.

    Args:
        runs: runs without an evaluation are left out.
        path: the PNG to write.

    Returns:
        Whether there was anything to draw.
    """
    drawn = [run for run in runs if run.evaluations()]
    games = list(dict.fromkeys(run.game for run in drawn))
    if not games:
        return False
    columns = min(PANELS_A_ROW, len(games))
    rows = -(-len(games) // columns)
    figure = Figure(figsize=(1.5 + 5.5 * columns, 4.0 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, game in zip(grid.flat, games, strict=False):
        _panel(axes, game, [run for run in drawn if run.game == game])
    for axes in grid.flat[len(games) :]:
        axes.set_visible(False)
    figure.savefig(path, dpi=150)
    return True


def _panel(axes: Axes, game: str, runs: list[Run]) -> None:
    several_seeds = len({run.seed for run in runs}) > 1
    for run in runs:
        played = run.evaluations()
        steps = [record["step"] for record in played]
        mean = [record["eval/return_mean"] for record in played]
        low = [record["eval/return_mean"] - record["eval/return_std"] for record in played]
        high = [record["eval/return_mean"] + record["eval/return_std"] for record in played]
        label = f"{run.arm}, seed {run.seed}" if several_seeds else run.arm
        (line,) = axes.plot(steps, mean, marker="o", markersize=3, label=label)
        axes.fill_between(steps, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
    protocol = runs[0].choices["protocol"]
    axes.set_title(f"{game} (protocol {protocol}, seeds: {len({run.seed for run in runs})})")
    axes.set_xlabel("agent steps")
    axes.set_ylabel("evaluation return, mean ± std over episodes")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=9)
