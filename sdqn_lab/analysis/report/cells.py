"""Which runs there are, what is missing, and what each number was made with."""

from collections import Counter

import pandas as pd

from sdqn_lab.analysis.report.learning import machine
from sdqn_lab.analysis.report.section import Section
from sdqn_lab.analysis.run import Run
from sdqn_lab.analysis.scores import Scores
from sdqn_lab.analysis.tables import Table


def missing(scores: Scores) -> Section:
    """What a reader has to know before believing anything: every run that is not whole."""
    comparison = scores.comparison
    states = Counter(run.state for run in comparison.all_runs)
    counts = ", ".join(f"{number} {state}" for state, number in states.most_common())
    noun = "run" if len(comparison.all_runs) == 1 else "runs"
    remarks = [f"{len(comparison.all_runs)} {noun}: {counts}."]
    for (task, arm), runs in comparison.cells.items():
        scored = {score.run for score in scores.of(task, arm)}
        failed = sum(run.state in ("failed", "lost") and run not in scored for run in runs)
        if failed:
            left = "its score is that of the others"
            remarks.append(f"{task}, {arm}: {failed} of {len(runs)} runs failed; {left}.")
    if not comparison.notices:
        return Section("missing", "What is missing?", [*remarks, "Nothing is missing."])
    data = pd.DataFrame([{"warning": n.message, "run": n.run} for n in comparison.notices])
    grouped = data.groupby("warning", sort=False)["run"]
    shown = pd.DataFrame({"runs": grouped.size(), "which": grouped.agg(", ".join)}).reset_index()
    caption = "Everything that was left out, cut, damaged or not finished."
    table = Table("warnings", "Warnings", caption, shown, data)
    return Section("missing", "What is missing?", remarks, [table])


def cells(scores: Scores) -> Section:
    """One row a run, with everything that is needed to make it again."""
    told = {
        score.run: score
        for task in scores.steps
        for arm in scores.comparison.arms
        for score in scores.of(task, arm)
    }
    rows = []
    for run in scores.comparison.all_runs:
        score = told.get(run)
        rows.append(
            {
                "game": run.game,
                "arm": str(scores.comparison.arm_of(run)) if run in scores.comparison.runs else "-",
                "seed": run.seed,
                "state": run.state,
                "steps": run.steps,
                "score": score.last if score else None,
                "best": score.best if score else None,
                "protocol": str(run.choices.get("protocol", "-")),
                "sha": _sha(run),
                "hardware": machine(run),
                "started": run.attempt().get("started"),
                "wall_seconds": run.records.last.get("wall_seconds"),
                "command": run.facts.get("command"),
                "run": run.path.name,
            }
        )
    data = pd.DataFrame(rows)
    shown = data[
        ["run", "arm", "seed", "state", "steps", "score", "best", "protocol", "sha", "hardware"]
    ]
    caption = (
        "score: mean of the last evaluation window; best: highest evaluation; sha: commit of the "
        "code that ran, + where it was changed. runs.csv also holds when it was started, its "
        "duration and, where its sweep knows it, the command that makes it again."
    )
    return Section(
        "runs", "Every run", items=[Table("runs", "Runs", caption, _in_words(shown), data)]
    )


def _sha(run: Run) -> str:
    attempts = run.status.get("attempts") or []
    shas = [
        f"{a['git_sha'][:8]}{'+' * bool(a.get('git_dirty'))}" for a in attempts if a.get("git_sha")
    ]
    return ", ".join(dict.fromkeys(shas)) or "-"


def _in_words(table: pd.DataFrame) -> pd.DataFrame:
    shown = table.copy()
    shown["steps"] = [f"{steps:,}" for steps in table["steps"]]
    for name in ("score", "best"):
        shown[name] = ["-" if pd.isna(value) else f"{value:.4g}" for value in table[name]]
    return shown
