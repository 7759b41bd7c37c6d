"""What became of every cell: the ledger, the cells' own status and the scheduler, compared."""

import json
import os
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sdqn_lab.launching import queue
from sdqn_lab.launching.ledger import Ledger, Submission, is_held, process_lives
from sdqn_lab.launching.processes import LOG
from sdqn_lab.runs.directory import BusyError, RunDirectory

STATES = ["finished", "running", "queued", "requeued", "stopped", "failed", "lost", "missing"]
"""What a cell can be; docs/SLURM.md says what each means."""
ACTIVE = frozenset({"running", "queued", "requeued"})
"""States in which something will still happen by itself."""
STARTABLE = frozenset({"stopped", "failed", "lost", "missing"})
"""States in which a relaunch starts a cell again."""
WRONG = frozenset({"failed", "lost"})
STUCK = frozenset(
    {"JobHeldUser", "JobHeldAdmin", "PartitionTimeLimit", "PartitionNodeLimit", "AccountNotAllowed"}
    | {"BadConstraints", "InvalidQOS", "InvalidAccount", "PartitionDown", "PartitionInactive"}
    | {"QOSMaxSubmitJobLimit", "AssocMaxSubmitJobLimit", "ReqNodeNotAvail"}
    | {"DependencyNeverSatisfied"}
)
"""Reasons for which a job may wait for ever; SLURM gives some with details behind a comma."""
TAIL_BYTES = 1 << 16
"""Enough of a metrics file to hold its last records."""
RATE_RECORDS = 50
"""The speed of a cell is that of so many records: evaluations are in them, and old ones are not."""
NAMED = ("env=", "seed=", "hydra")
"""Overrides that a cell's name tells of, or its place."""
WARM_UP = 0.02
"""Share of the steps after which a speed without an update is believed."""


@dataclass(frozen=True)
class Report:
    """One cell."""

    name: str
    state: str
    """One of `STATES`."""
    game: str
    seed: int
    total_steps: int
    steps: int = 0
    rate: float = 0.0
    """Agent steps per second of late, evaluations included; 0 while it cannot be known yet."""
    last_return: float | None = None
    evaluation: float | None = None
    attempts: int = 0
    job: str | None = None
    reason: str = ""
    """Why it failed or was lost, in a line."""
    warnings: list[str] = field(default_factory=list)
    log: Path | None = None
    swept: str = ""
    """What was asked of it and not of all, in a sweep where some names differ by a hash alone."""

    @property
    def label(self) -> str:
        """Its name; where that says too little, what was swept too."""
        return f"{self.name} ({self.swept})" if self.swept else self.name

    @property
    def seconds_left(self) -> float | None:
        """At the present rate; None where there is none."""
        return (self.total_steps - self.steps) / self.rate if self.rate else None


@dataclass(frozen=True)
class Observation:
    """A sweep at one moment."""

    sweep_dir: Path
    reports: list[Report]
    problem: str | None = None
    """Why SLURM could not be asked; states are then what the cells wrote last."""

    def count(self, *states: str) -> int:
        """Cells in any of these states."""
        return len(self.names(states))

    def names(self, states: Iterable[str]) -> list[str]:
        """Names of the cells in any of these states."""
        return [report.name for report in self.reports if report.state in states]

    @property
    def active(self) -> bool:
        """Whether anything will still happen by itself."""
        return self.count(*ACTIVE) > 0


def observe(sweep_dir: Path) -> Observation:
    """Look at a sweep.

    Raises:
        LedgerError: no ledger, or a damaged one.
    """
    ledger, problem = Ledger.read(sweep_dir), None
    jobs: dict[str, queue.Job] | None = {}
    # Asked before the cells' files are read: a job that ended in between has written its state.
    if any(s.launcher == "slurm" for s in ledger.submissions):
        try:
            jobs = queue.jobs(s.job_name for s in ledger.submissions if s.job_name)
        except queue.SlurmError as error:
            jobs, problem = None, str(error)
    reports = [_report(sweep_dir, name, ledger, jobs) for name in ledger.cells]
    ended = queue.final_states(sorted({r.job for r in reports if r.state == "lost" and r.job}))
    for index, report in enumerate(reports):
        state = ended.get(report.job or "") if report.state == "lost" else None
        if state and state.split()[0] in queue.ENDS:
            reports[index] = replace(report, reason=f"SLURM: {state}")
        elif state:  # the queue does not show the job, and it lives
            alive = "running" if state == "RUNNING" else "queued"
            reports[index] = replace(report, state=alive, reason="")
    # Names hold the neuron and its norm: arms of several algorithms differ by a hash alone.
    axes = Counter(name.rpartition("_")[0] for name in ledger.cells)
    if max(axes.values(), default=0) > 1:
        given = Counter(line for entry in ledger.cells.values() for line in entry.overrides)
        for index, report in enumerate(reports):
            own = [
                line
                for line in ledger.cells[report.name].overrides
                if given[line] < len(reports) and not line.lstrip("+").startswith(NAMED)
            ]
            reports[index] = replace(report, swept=" ".join(own))
    return Observation(sweep_dir, reports, problem)


def _report(
    sweep_dir: Path, name: str, ledger: Ledger, jobs: dict[str, queue.Job] | None
) -> Report:
    entry, submission = ledger.cells[name], ledger.submission_of(name)
    directory = RunDirectory(sweep_dir / name)
    report = Report(name, "failed", game=entry.game, seed=entry.seed, total_steps=entry.steps)
    try:
        status = directory.status()
    except ValueError as error:
        return replace(report, reason=str(error))
    except OSError as error:  # of a file system that is busy with the file; no verdict
        return replace(report, state="running", reason=str(error))
    attempts = status.get("attempts", [])
    job = submission.job_of(name) if submission else None
    state, reason = _state(directory, status, submission, job, jobs)
    log = directory.path / LOG
    return replace(
        report,
        state=state,
        **progress(directory, entry.steps),
        attempts=len(attempts),
        job=job,
        reason=reason,
        warnings=_warnings(attempts, submission),
        log=log if log.exists() else None,
    )


def _state(
    directory: RunDirectory,
    status: dict[str, Any],
    submission: Submission | None,
    job: str | None,
    jobs: dict[str, queue.Job] | None,
) -> tuple[str, str]:
    """A cell's state, and the reason if it failed or was lost."""
    written, attempts = status.get("state"), status.get("attempts", [])
    if written == "finished":
        return "finished", ""
    if written == "failed":
        # A failed cell may have been submitted again, and the new job has not begun with it.
        found = (jobs or {}).get(job or "")
        begun = bool(attempts) and attempts[-1].get("slurm_job") == job
        if begun or found is None or not found.active:
            return "failed", last_line(status.get("error"))
    if written is None or submission is None:
        return "missing", ""
    # What follows compares what a cell wrote with whether anything can still work on it.
    if submission.launcher == "local":
        return _local_state(written, attempts, submission, directory)
    if jobs is None:
        return {"pending": "queued", "preempted": "requeued"}.get(written, written), ""
    return _slurm_state(written, submission, job, jobs)


def _local_state(
    written: str, attempts: list[dict[str, Any]], submission: Submission, directory: RunDirectory
) -> tuple[str, str]:
    # Processes of another machine cannot be seen, but what they hold locked can.
    if written == "running":
        if submission.elsewhere:
            lives = is_held(directory.path)
        else:
            last = attempts[-1] if attempts else None
            lives = last is not None and process_lives(
                last["host"], last["pid"], last["process_start"]
            )
        return ("running", "") if lives else ("lost", "its process is gone")
    # A launcher starts a cell once: one that has left since then is not waiting.
    left = written == "preempted" and attempts and attempts[-1]["started"] >= submission.time
    elsewhere = submission.elsewhere and not submission.ended
    if (is_held(directory.path.parent) if elsewhere else submission.alive) and not left:
        return ("queued" if written == "pending" else "requeued"), ""
    return ("stopped" if written == "preempted" or attempts else "missing"), ""


def _slurm_state(
    written: str, submission: Submission, job: str | None, jobs: dict[str, queue.Job]
) -> tuple[str, str]:
    found = jobs.get(job or "")
    if found is not None and found.name != submission.job_name:
        found = None  # another job with the same id
    if found is not None and found.active:
        if written == "running" and found.state == "RUNNING":
            return "running", ""
        reason = f"SLURM: {found.reason}" if found.reason.partition(",")[0] in STUCK else ""
        return ("requeued" if written in ("running", "preempted") else "queued"), reason
    if written == "preempted" or (submission.cancelled and written == "pending"):
        return "stopped", ""
    if job is None:
        return "missing", ""
    return "lost", f"SLURM: {found.state}" if found else "its job is no longer in the queue"


def _warnings(attempts: list[dict[str, Any]], submission: Submission | None) -> list[str]:
    """Whether the code that ran is the code that was submitted."""
    if submission is None:
        return []
    ran = [a for a in attempts if a.get("started", "") >= submission.time and "code" in a]
    other = [a for a in ran if a["code"] != submission.code.get("code")]
    if not other:
        return []

    def version(code: dict[str, Any]) -> str:
        sha, changed = code.get("git_sha"), "+changes" if code.get("git_dirty") else ""
        return f"{sha[:8]}{changed} {code['code'][:6]}" if sha else str(code["code"][:6])

    return [
        f"ran other code ({version(other[-1])}) than was submitted ({version(submission.code)})"
    ]


def progress(directory: RunDirectory, total_steps: int) -> dict[str, Any]:
    """Steps, rate and last scores, out of the end of a run's metrics.

    A run that was stopped between two records stands where its checkpoint does.
    """
    records = _last_records(directory.metrics)
    last = {key: value for record in records for key, value in record.items()}
    steps = max(last.get("step", 0), directory.saved_steps)
    # Steps before the first update are fast: they say nothing of those that follow.
    learned = next(
        (i for i, r in enumerate(records) if any(k.startswith("loss/") for k in r)), None
    )
    rate = 0.0
    if learned is not None or steps > WARM_UP * total_steps:
        clocked = [r for r in records[learned or 0 :] if r.keys() >= {"step", "wall_seconds"}][
            -RATE_RECORDS:
        ]
        if clocked and (seconds := clocked[-1]["wall_seconds"] - clocked[0]["wall_seconds"]) > 0:
            rate = (clocked[-1]["step"] - clocked[0]["step"]) / seconds
    return {
        "steps": steps,
        "rate": rate,
        "last_return": last.get("train/return"),
        "evaluation": last.get("eval/return_mean"),
    }


def _last_records(path: Path) -> list[dict[str, Any]]:
    """The last complete records of a metrics file; what is torn or no record is left out."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL_BYTES))
            lines = file.read().splitlines(keepends=True)
    except FileNotFoundError:
        return []
    records = []
    for line in lines[1 if size > TAIL_BYTES else 0 :]:
        try:
            record = json.loads(line) if line.endswith(b"\n") else None
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict):
            records.append(record)
    return records


def last_line(text: str | None) -> str:
    """The line of a traceback that says what happened."""
    lines = (text or "").strip().splitlines()
    # Python writes the module before an exception's name, and nobody needs ours.
    return re.sub(r"^sdqn_lab\.[\w.]+\.(?=\w+:)", "", lines[-1]) if lines else ""


def unfinished(sweep_dir: Path, names: Iterable[str]) -> list[str]:
    """Those of the cells that are not finished."""
    return [name for name in names if RunDirectory(sweep_dir / name).state != "finished"]


def forget_failure(directory: RunDirectory) -> None:
    """Let a failed cell wait for its next start; the old error says nothing about that one."""
    try:
        with directory.lock():
            if directory.state == "failed":
                directory.update(state="pending", error=None)
    except BusyError:
        return
