"""Takes the finished runs of a sweep into `results/`, with thinned metrics, and reports them anew.

python results/collect.py SWEEP_DIR NAME    fills results/NAME; run it again for a later portion
python results/collect.py NAME              makes tables and figures anew from the committed runs

Kept of the metrics: every row with an evaluation, the last row, and every tenth of the others.
In results/NAME/README.md the tables between `<!-- scores -->` and `<!-- /scores -->`, and likewise
`aggregates`, are made anew. Options after the names go to `python -m sdqn_lab.report`.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd

RESULTS = Path(__file__).parent
FILES = ("config.yaml", "status.json", "probe.json", "health.json")
SHOWN = {
    "tables": "aggregates arms costs firing improvement literature-1 runs scores",
    "figures": "aggregates energy firing-over-training improvement learning-curves "
    "learning-curves-time scores",
}
SUFFIX = {"tables": "csv", "figures": "png"}


def thinned(metrics: str) -> str:
    """A tenth of the rows, and none without which a score could not be computed."""
    lines = metrics.splitlines(keepends=True)
    kept = [
        line
        for number, line in enumerate(lines)
        if number % 10 == 0 or number == len(lines) - 1 or "eval/return_mean" in line
    ]
    return "".join(kept)


def take(sweep: Path, study: Path) -> None:
    """Copy what is finished; what was taken before is replaced by the same run."""
    study.mkdir(parents=True, exist_ok=True)
    if (ledger := sweep / "ledger.json").exists():
        shutil.copy(ledger, study)
    for run in sorted(sweep.glob("*/status.json")):
        if json.loads(run.read_bytes())["state"] != "finished":
            continue
        to = study / run.parent.name
        to.mkdir(exist_ok=True)
        for name in FILES:
            if (file := run.with_name(name)).exists():
                shutil.copy(file, to)
        metrics = run.with_name("metrics.jsonl").read_text(encoding="utf-8")
        (to / "metrics.jsonl").write_text(thinned(metrics), encoding="utf-8")


def report(home: Path, options: list[str]) -> None:
    """Tables and figures that a page of `results/` may show."""
    with tempfile.TemporaryDirectory() as made:
        command = [sys.executable, "-m", "sdqn_lab.report", str(home / "sweep"), "--out", made]
        subprocess.run([*command, *options], check=True)
        for folder, names in SHOWN.items():
            to = home / "report" / folder
            shutil.rmtree(to, ignore_errors=True)
            to.mkdir(parents=True)
            for name in names.split():
                if (file := Path(made, folder, f"{name}.{SUFFIX[folder]}")).exists():
                    shutil.copy(file, to)
        page = home / "README.md"
        text = page.read_text(encoding="utf-8") if page.exists() else ""
        for name in ("scores", "aggregates"):
            table = Path(made, "tables", f"{name}.md").read_text(encoding="utf-8")
            print(table)
            (rows, *_) = re.findall(r"(?:^\|.*\n)+", table, re.MULTILINE)
            begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
            if begin in text:
                before, behind = text.split(begin)[0], text.split(end)[1]
                text = f"{before}{begin}\n\n{rows}\n{end}{behind}"
        if text:
            page.write_text(text, encoding="utf-8")
    # A row for each run that is there; the ledger knows the others.
    runs = home / "report" / "tables" / "runs.csv"
    table = pd.read_csv(runs, dtype=str, keep_default_na=False)
    table[table["state"] == "finished"].to_csv(runs, index=False)
    shutil.copy(runs, home)


if __name__ == "__main__":
    names = [word for word in sys.argv[1:] if not word.startswith("--")]
    if len(names) not in (1, 2):
        sys.exit(__doc__)
    target = RESULTS / names[-1]
    if len(names) == 2:
        take(Path(names[0]), target / "sweep")
    report(target, sys.argv[1 + len(names) :])
