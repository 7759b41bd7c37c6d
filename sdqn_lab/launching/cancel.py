"""Let all cells of a sweep save and stop."""

import os
import signal
from pathlib import Path

from sdqn_lab.launching import queue
from sdqn_lab.launching.ledger import Ledger, LedgerError, locked
from sdqn_lab.runs.directory import timestamp


def cancel_cells(sweep_dir: Path) -> str:
    """Ask all jobs of a sweep, and its launchers on this machine, to stop.

    Returns:
        A line that says what was asked.

    Raises:
        LedgerError: no ledger, or its cells run on another machine.
        BusyError: another command is starting cells.
        SlurmError: SLURM does not answer.
    """
    ledger = Ledger.read(sweep_dir)
    local = [s for s in ledger.submissions if s.launcher == "local" and not s.ended]
    alive = [submission for submission in local if submission.alive]
    for submission in alive:
        os.kill(submission.pid, signal.SIGTERM)
    names = {job: s.job_name for s in ledger.submissions for job in s.jobs if s.job_name}
    if jobs := queue.active_jobs(names):
        # Under the lock: a command that is submitting would write over what is noted here.
        with locked(sweep_dir):
            queue.slurm("scancel", *jobs)
            ledger = Ledger.read(sweep_dir)
            for submission in ledger.submissions:
                if not submission.jobs.keys().isdisjoint(jobs):
                    submission.cancelled = timestamp()
            ledger.write(sweep_dir)
    hosts = [submission.host for submission in local if submission.elsewhere]
    if hosts and not jobs and not alive:
        raise LedgerError(f"{sweep_dir}: started on {hosts[-1]}; write the command there")
    if not jobs and not alive:
        return f"{sweep_dir}: nothing of it is running or waiting here"
    return (
        f"asked {len(jobs)} jobs and {len(alive)} local launchers to stop; cells save and leave; "
        f"python -m sdqn_lab.sweep relaunch {sweep_dir} goes on"
    )
