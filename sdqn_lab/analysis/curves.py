"""Learning curves of the cells of a sweep."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from sdqn_lab.tracking.metrics import read_metrics

mpl.use("Agg")


def draw_learning_curves(runs: Mapping[str, Path], title: str, path: Path) -> None:
    """Draw evaluation returns against agent steps, one line a run, shaded by the episodes' spread.

    Args:
        runs: label -> ``metrics.jsonl``.
        title: heading; it should name game and protocol.
        path: the PNG to write.
    """
    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    axes = figure.subplots()
    for label, metrics in runs.items():
        played = [record for record in read_metrics(metrics) if "eval/return_mean" in record]
        steps = [record["step"] for record in played]
        mean = [record["eval/return_mean"] for record in played]
        spread = [record["eval/return_std"] for record in played]
        low = [m - s for m, s in zip(mean, spread, strict=True)]
        high = [m + s for m, s in zip(mean, spread, strict=True)]
        (line,) = axes.plot(steps, mean, marker="o", markersize=3, label=label)
        axes.fill_between(steps, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("agent steps")
    axes.set_ylabel("evaluation return (mean ± std over episodes)")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)
