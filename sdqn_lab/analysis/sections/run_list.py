"""Which runs there are, what is missing, and what each number was made with."""

from collections import Counter

import pandas as pd

from sdqn_lab.analysis.scoring import Scores
from sdqn_lab.analysis.sections.section import Section, Table
from sdqn_lab.analysis.text import counted

SHOWN = ("run", "arm", "seed", "state", "steps", "score", "best", "protocol", "sha", "hardware")


def missing(scores: Scores) -> Section:
    """What a reader has to know before believing anything: every run that is not whole."""
    comparison = scores.comparison
    states = Counter(run.state for run in comparison.all_runs)
    counts = ", ".join(f"{number} {state}" for state, number in states.most_common())
    remarks = [f"{counted(len(comparison.all_runs), 'run')}: {counts}."]
    for (task, arm), runs in comparison.cells.items():
        scored = {score.run for score in scores.of(task, arm)}
        # One that failed after the steps compared has its score, and nothing is missing.
        failed = sum(run.state in ("failed", "lost") and run not in scored for run in runs)
        if failed:
            left = "its score is that of the others"
            remarks.append(f"{task}, {arm}: {failed} of {len(runs)} runs failed; {left}.")
    commits = {run.commit for run in comparison.runs}
    if len(commits) > 1 and "commit" not in comparison.axes:
        remarks.append(
            f"The runs were made with {len(commits)} states of the code: "
            f"{'; '.join(sorted(commits))}. --by commit would compare them."
        )
    if not comparison.notices:
        return Section("missing", "What is missing?", [*remarks, "Nothing is missing."])
    data = pd.DataFrame([{"warning": n.message, "run": n.run} for n in comparison.notices])
    grouped = data.groupby("warning", sort=False)["run"]
    shown = pd.DataFrame({"runs": grouped.size(), "which": grouped.agg(", ".join)}).reset_index()
    caption = "Everything that was left out, cut, damaged or not finished."
    table = Table("warnings", "Warnings", caption, shown, data)
    return Section("missing", "What is missing?", remarks, [table])


def run_list(scores: Scores) -> Section:
    """One row for each run, with everything that is needed to make it again."""
    comparison = scores.comparison
    cells = ((task, arm) for task in comparison.tasks for arm in comparison.arms)
    by_run = {score.run: score for cell in cells for score in scores.of(*cell)}
    rows = []
    for run in comparison.all_runs:
        score = by_run.get(run)
        rows.append(
            {
                "game": run.game,
                "arm": str(comparison.arm_of(run)) if run in comparison.runs else "-",
                "seed": run.seed,
                "state": run.state,
                "steps": run.steps,
                "score": score.last if score else None,
                "best": score.best if score else None,
                "protocol": str(run.choices.get("protocol", "-")),
                "sha": run.commit,
                "hardware": run.machine,
                "started": run.attempt.get("started"),
                "wall_seconds": run.records.last.get("wall_seconds"),
                "command": run.facts.get("command"),
                "run": run.path.name,
            }
        )
    data = pd.DataFrame(rows)
    shown = data[list(SHOWN)].copy()
    shown["steps"] = [f"{steps:,}" for steps in data["steps"]]
    for name in ("score", "best"):
        shown[name] = ["-" if pd.isna(value) else f"{value:.4g}" for value in data[name]]
    caption = (
        "score: mean of the last evaluation window; best: highest evaluation; sha: commit of the "
        "code that ran, + where it was changed. runs.csv also holds when it was started, its "
        "duration and, where its sweep knows it, the command that makes it again."
    )
    table = Table("runs", "Runs", caption, shown, data)
    return Section("runs", "Every run", items=[table])
