"""What became of every cell: the ledger, the cells' own words and the scheduler, compared."""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sdqn_lab.launching import queue
from sdqn_lab.launching.ledger import Ledger, Submission, is_held, process_lives
from sdqn_lab.launching.processes import LOG
from sdqn_lab.runs.directory import BusyError, RunDirectory

STATES: Mapping[str, str] = {
    "finished": "reached its last step",
    "running": "a process works on it",
    "queued": "waits for its first start",
    "requeued": "was preempted or lost its node; waits for its next start",
    "stopped": "saved and left, and nobody will start it again",
    "failed": "ended by an error",
    "lost": "its process is gone without a word",
    "missing": "was never started, or its directory is gone",
}
"""State of a cell -> what it means."""
STARTABLE = frozenset({"stopped", "failed", "lost", "missing"})
"""States in which a relaunch starts a cell again."""
WRONG = frozenset({"failed", "lost"})
STUCK = frozenset(
    {"JobHeldUser", "JobHeldAdmin", "PartitionTimeLimit", "PartitionNodeLimit", "AccountNotAllowed"}
    | {"BadConstraints", "InvalidQOS", "InvalidAccount", "PartitionDown", "PartitionInactive"}
    | {
        "QOSMaxSubmitJobLimit",
        "AssocMaxSubmitJobLimit",
        "ReqNodeNotAvail",
        "DependencyNeverSatisfied",
    }
)
"""Reasons for which a job may wait for ever; SLURM tells some with details behind a comma."""
TAIL_BYTES = 1 << 16
"""Enough of a metrics file to hold its last records."""


@dataclass(frozen=True)
class Report:
    """One cell."""

    name: str
    state: str
    """One of ``STATES``."""
    game: str
    seed: int
    total_steps: int
    steps: int = 0
    rate: float = 0.0
    """Agent steps per second, at its last record."""
    last_return: float | None = None
    evaluation: float | None = None
    attempts: int = 0
    job: str | None = None
    reason: str = ""
    """Why it failed or was lost, in a line."""
    warnings: list[str] = field(default_factory=list)
    log: Path | None = None

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
    """Why SLURM could not be asked; states are then those that the cells told last."""

    def count(self, *states: str) -> int:
        """Cells in any of these states."""
        return sum(report.state in states for report in self.reports)

    def names(self, states: Iterable[str]) -> list[str]:
        """Names of the cells in any of these states."""
        return [report.name for report in self.reports if report.state in states]

    @property
    def active(self) -> bool:
        """Whether anything will still happen by itself."""
        return self.count("running", "queued", "requeued") > 0


def observe(sweep_dir: Path) -> Observation:
    """Look at a sweep.

    The scheduler is asked before the cells' files are read: what ended in between has told so.

    Raises:
        LedgerError: no ledger, or a damaged one.
    """
    ledger, problem = Ledger.read(sweep_dir), None
    jobs: dict[str, queue.Job] | None = {}
    if any(s.launcher == "slurm" for s in ledger.submissions):
        try:
            jobs = queue.jobs(s.job_name for s in ledger.submissions if s.job_name)
        except queue.SlurmError as error:
            jobs, problem = None, str(error)
    reports = [_report(sweep_dir, name, ledger, jobs) for name in ledger.cells]
    return Observation(sweep_dir, _with_endings(reports), problem)


def _with_endings(reports: list[Report]) -> list[Report]:
    """Ask the accounting how the jobs of lost cells ended."""
    gone = {r.job for r in reports if r.state == "lost" and r.job}
    told = queue.endings(sorted(gone))
    return [_with_ending(r, told.get(r.job or "")) if r.state == "lost" else r for r in reports]


def _with_ending(report: Report, ending: str | None) -> Report:
    if ending is None:
        return report
    if ending.split()[0] not in queue.ENDS:  # the queue does not show it, and it lives
        return replace(report, state="running" if ending == "RUNNING" else "queued", reason="")
    return replace(report, reason=f"SLURM: {ending}")


def _report(
    sweep_dir: Path, name: str, ledger: Ledger, jobs: dict[str, queue.Job] | None
) -> Report:
    entry, submission = ledger.cells[name], ledger.submission_of(name)
    directory = RunDirectory(sweep_dir / name)
    facts: dict[str, Any] = {"game": entry.game, "seed": entry.seed, "total_steps": entry.steps}
    try:
        status = directory.status()
    except ValueError as error:
        return Report(name, "failed", **facts, reason=str(error))
    except OSError as error:  # of a file system that is busy with the file; no verdict
        return Report(name, "running", **facts, reason=str(error))
    attempts = status.get("attempts", [])
    job = _job_of(name, submission)
    state, reason = _state(directory, status, submission, job, jobs)
    log = directory.path / LOG
    return Report(
        name,
        state,
        **facts,
        **_progress(directory),
        attempts=len(attempts),
        job=job,
        reason=reason,
        warnings=_warnings(attempts, submission),
        log=log if log.exists() else None,
    )


def _job_of(name: str, submission: Submission | None) -> str | None:
    jobs = submission.jobs if submission else {}
    return next((job for job, cells in jobs.items() if name in cells), None)


def _state(
    directory: RunDirectory,
    status: dict[str, Any],
    submission: Submission | None,
    job: str | None,
    jobs: dict[str, queue.Job] | None,
) -> tuple[str, str]:
    """A cell's state, and the reason if it failed or was lost."""
    told, attempts = status.get("state"), status.get("attempts", [])
    if told == "finished":
        return "finished", ""
    if told == "failed" and not _waits_again(attempts, job, jobs):
        return "failed", last_line(status.get("error"))
    if told is None or submission is None:
        return "missing", ""
    if submission.launcher == "local":
        return _local_state(told, attempts, submission, directory)
    if jobs is None:
        return {"pending": "queued", "preempted": "requeued"}.get(told, told), ""
    return _slurm_state(told, submission, job, jobs)


def _waits_again(
    attempts: list[dict[str, Any]], job: str | None, jobs: dict[str, queue.Job] | None
) -> bool:
    """Whether a failed cell was submitted again, and the new job has not begun with it."""
    found = (jobs or {}).get(job) if job else None
    if found is None or not found.active:
        return False
    return not attempts or attempts[-1].get("slurm_job") != job


def _local_state(
    told: str, attempts: list[dict[str, Any]], submission: Submission, directory: RunDirectory
) -> tuple[str, str]:
    # Processes of another machine cannot be seen, but what they hold locked can.
    if told == "running":
        lives = is_held(directory.path) if submission.elsewhere else _lives(attempts)
        return ("running", "") if lives else ("lost", "its process is gone")
    # A launcher starts a cell once: one that has left since then is not waiting.
    left = told == "preempted" and attempts and attempts[-1]["started"] >= submission.time
    elsewhere = submission.elsewhere and not submission.ended
    if (is_held(directory.path.parent) if elsewhere else submission.alive) and not left:
        return ("queued" if told == "pending" else "requeued"), ""
    return ("stopped" if told == "preempted" or attempts else "missing"), ""


def _lives(attempts: list[dict[str, Any]]) -> bool:
    last = attempts[-1] if attempts else {}
    return bool(last) and process_lives(last["host"], last["pid"], last["process_start"])


def _slurm_state(
    told: str, submission: Submission, job: str | None, jobs: dict[str, queue.Job]
) -> tuple[str, str]:
    found = jobs.get(job) if job else None
    ours = found is not None and found.name == submission.job_name
    if found is not None and ours and found.active:
        if told == "running" and found.state == "RUNNING":
            return "running", ""
        reason = f"SLURM: {found.reason}" if found.reason.partition(",")[0] in STUCK else ""
        return ("requeued" if told in ("running", "preempted") else "queued"), reason
    if told == "preempted" or (submission.cancelled and told == "pending"):
        return "stopped", ""
    if job is None:
        return "missing", ""
    return (
        "lost",
        f"SLURM: {found.state}" if found and ours else "its job is no longer in the queue",
    )


def _warnings(attempts: list[dict[str, Any]], submission: Submission | None) -> list[str]:
    """Whether the code that ran is the code that was submitted."""
    if submission is None:
        return []
    ran = [a for a in attempts if a.get("started", "") >= submission.time and "code" in a]
    other = [a for a in ran if a["code"] != submission.code.get("code")]
    if not other:
        return []
    at_start, submitted = _version(other[-1]), _version(submission.code)
    return [f"ran other code ({at_start}) than was submitted ({submitted})"]


def _version(code: dict[str, Any]) -> str:
    sha = code.get("git_sha")
    changed = "+changes" if code.get("git_dirty") else ""
    return f"{sha[:8]}{changed} {code['code'][:6]}" if sha else str(code["code"][:6])


def _progress(directory: RunDirectory) -> dict[str, Any]:
    """Steps, rate and last scores, out of the end of the metrics.

    A run that was stopped between two records stands where its checkpoint does.
    """
    records = _tail(directory.metrics)
    if not records:
        return {"steps": directory.saved_steps}
    last = {key: value for record in records for key, value in record.items()}
    return {
        "steps": max(records[-1].get("step", 0), directory.saved_steps),
        "rate": last.get("time/steps_per_second", 0.0),
        "last_return": last.get("train/return"),
        "evaluation": last.get("eval/return_mean"),
    }


def _tail(path: Path) -> list[dict[str, Any]]:
    """The last complete records; what is torn or no record is left out."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL_BYTES))
            lines = file.read().splitlines(keepends=True)
    except FileNotFoundError:
        return []
    complete = lines[1 if size > TAIL_BYTES else 0 :]
    records = [_record(line) for line in complete if line.endswith(b"\n")]
    return [record for record in records if record]


def _record(line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def last_line(text: str | None) -> str:
    """The line of a traceback that says what happened."""
    lines = (text or "").strip().splitlines()
    return lines[-1] if lines else ""


def unfinished(sweep_dir: Path, names: Iterable[str]) -> list[str]:
    """Those of the cells that are not finished."""
    return [name for name in names if RunDirectory(sweep_dir / name).state != "finished"]


def forget_failure(directory: RunDirectory) -> None:
    """What ended an earlier start is no news of this one."""
    try:
        with directory.lock():
            if directory.state == "failed":
                directory.update(state="pending", error=None)
    except BusyError:
        return
