"""The one number that a run returns to a sweeper that searches."""

from pathlib import Path
from statistics import fmean

from sdqn_lab.runs.metrics import read_metrics

LAST_SHARE = 0.2
"""Share of the steps, at the end of a run, over whose records a metric is averaged."""


def objective(metrics: Path, key: str) -> float:
    """Mean of a metric over the records of the last fifth of a run's steps.

    Args:
        metrics: the run's `metrics.jsonl`.
        key: e.g. `eval/return_mean`.

    Raises:
        ValueError: no record has the metric.
    """
    records = read_metrics(metrics)
    having = [record for record in records if key in record]
    if not having:
        known = sorted({name for record in records for name in record if "/" in name})
        raise ValueError(f"objective={key}: no record of {metrics} has it; there are {known}")
    begin = (1 - LAST_SHARE) * having[-1]["step"]
    return fmean(record[key] for record in having if record["step"] >= begin)
