"""`metrics.jsonl` read for figures: every evaluation, training thinned, damage reported."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from sdqn_lab.analysis.statistics import Array
from sdqn_lab.runs.files import open_regular

Record = dict[str, Any]
MAX_RECORDS = 300
"""Training records kept of a run, evenly spread: more than a figure can show."""
SCORE = "eval/return_mean"
EVENT = "health/event"
OF_EVALUATION = (SCORE, "frames", "wall_seconds")
"""What an evaluation cannot be drawn without."""


@dataclass
class Records:
    """What is known of a run through its metrics.

    Attributes:
        evaluations: all of them, in order.
        training: at most `MAX_RECORDS`, evenly spread over the file.
        spiking: the last record with firing rates.
        events: sentences that the run wrote for a person.
        last: the last record of all.
        problems: what was wrong with the file, each a clause that names the line.
    """

    evaluations: list[Record] = field(default_factory=list)
    training: list[Record] = field(default_factory=list)
    spiking: Record = field(default_factory=dict)
    events: list[str] = field(default_factory=list)
    last: Record = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def series(self, key: str) -> tuple[Array, Array]:
        """Agent steps and values of a key, over the records that have it as a number."""
        kept = self.evaluations if key.startswith("eval/") else self.training
        points = [(r["step"], r[key]) for r in kept if is_number(r.get(key))]
        steps, values = zip(*points, strict=True) if points else ((), ())
        return np.array(steps, float), np.array(values, float)


def read_records(path: Path, max_steps: int | None = None) -> Records:
    """Read a metrics file, whatever state it is in.

    A line that is torn, no JSON (NaN is none), no record, or older than the line before is left
    out and named in `problems`. A torn last line is what a crash leaves and is no problem: the run
    writes it anew when it goes on.

    Args:
        path: the file.
        max_steps: a line beyond it is damaged; None: no limit is known.
    """
    records = Records()
    try:
        with open_regular(path) as file:
            _sort(file, records, max_steps or 2**63)
    except FileNotFoundError:
        records.problems.append("metrics.jsonl is missing")
    except OSError as error:
        records.problems.append(f"metrics.jsonl cannot be read: {error.strerror}")
    except ValueError:
        records.problems.append("metrics.jsonl cannot be read: not a regular file")
    return records


def _sort(lines: Iterable[bytes], records: Records, max_steps: int) -> None:
    trained, stride, bad, first = 0, 1, 0, ""
    for number, line in enumerate(lines, start=1):
        record = _parsed(line, records.last, max_steps)
        if isinstance(record, str):
            # Without an end it is what a crash left, and the run writes it anew.
            if line.endswith(b"\n"):
                bad, first = bad + 1, first or f"line {number} {record}"
            continue
        records.last = record
        if SCORE in record:
            records.evaluations.append(record)
            continue
        if EVENT in record:
            records.events.append(f"step {record['step']:,}: {record[EVENT]}")
            continue
        # Firing is read at its end: thinning must not decide which record that is.
        if b'"snn/' in line:
            records.spiking = record
        # A file may hold millions of lines: every second one goes whenever the list is full.
        if trained % stride == 0:
            records.training.append(record)
            if len(records.training) == 2 * MAX_RECORDS:
                records.training = records.training[::2]
                stride *= 2
        trained += 1
    records.training = records.training[:: -(-len(records.training) // MAX_RECORDS) or 1]
    if bad:
        others = f" (and {bad - 1:,} more lines)" if bad > 1 else ""
        records.problems.append(f"metrics.jsonl: {first}{others}; left out")


def _parsed(line: bytes, before: Record, max_steps: int) -> Record | str:
    """The record of a line, or why it is none."""
    try:
        # NaN and Infinity are Python's and not JSON's, and no `int`: a run never writes them.
        record = json.loads(line, parse_constant=int)
    except (ValueError, RecursionError):
        return "is not valid JSON"
    if not isinstance(record, dict) or not is_number(record.get("step")):
        return "is no record: it has no number `step`"
    if record["step"] < before.get("step", 0):
        return f"goes back to step {record['step']:,}"
    if record["step"] > max_steps:
        return f"is beyond the run's end: step {record['step']:,}"
    if SCORE in record:
        wrong = [key for key in OF_EVALUATION if not is_number(record.get(key))]
        return f"is an evaluation whose {wrong[0]} is no number" if wrong else record
    return record


def is_number(value: object) -> bool:
    """Whether a value of a record is a finite number."""
    # JSON's integers may have any length, and one beyond a float's range is no number to draw.
    whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
    return whole or (isinstance(value, float) and isfinite(value))
