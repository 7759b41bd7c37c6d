"""Takes the finished runs of a sweep into `results/`, with thinned metrics, and reports them anew.

python results/collect.py SWEEP_DIR NAME    fills results/NAME; run it again for a later portion
python results/collect.py NAME              makes tables and figures anew from the committed runs

Kept of the metrics: every row with an evaluation, the last row, and every tenth of the others; of
the ledger all but where the sweep lay. In results/NAME/README.md the tables between
`<!-- scores -->` and `<!-- /scores -->`, and likewise `aggregates`, are made anew, and those that a
script of the study prints: of `effects.py` between the marks `effects`. A folder without runs of
its own (`algorithms`) shows curves of all studies below it: make it anew after one of these.
Options after the names go to `python -m sdqn_lab.report`.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd
import yaml

RESULTS = Path(__file__).parent
FILES = ("config.yaml", "status.json", "probe.json", "health.json")
SHOWN = {
    "tables": "aggregates arms costs firing improvement literature-1 runs scores",
    "figures": "aggregates energy firing-over-training improvement learning-curves "
    "learning-curves-time scores",
}
CURVES = {"figures": "learning-curves learning-curves-time"}
SUFFIX = {"tables": "csv", "figures": "png"}


def thinned(metrics: str, rows: float) -> str:
    """A tenth of the rows, and none without which a score could not be computed.

    Args:
        metrics: the lines of a run.
        rows: how many it has written; where most are gone, they were thinned before, and stay.
    """
    lines = metrics.splitlines(keepends=True)
    if len(lines) < rows / 2:
        return metrics
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
        facts = json.loads(ledger.read_bytes())
        for each in facts["submissions"]:
            each["command"] = [w for w in each["command"] if not w.startswith("hydra.sweep.dir=")]
        (study / "ledger.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    for run in sorted(sweep.glob("*/status.json")):
        if json.loads(run.read_bytes())["state"] != "finished":
            continue
        to = study / run.parent.name
        to.mkdir(exist_ok=True)
        for name in FILES:
            if (file := run.with_name(name)).exists():
                shutil.copy(file, to)
        budget = yaml.safe_load(run.with_name("config.yaml").read_bytes())["budget"]
        metrics = run.with_name("metrics.jsonl").read_text(encoding="utf-8")
        kept = thinned(metrics, budget["steps"] / budget["log_every_steps"])
        (to / "metrics.jsonl").write_text(kept, encoding="utf-8")


def report(home: Path, options: list[str]) -> None:
    """Tables and figures that a page of `results/` may show."""
    own = (home / "sweep").is_dir()
    sweeps = [home / "sweep"] if own else sorted(home.glob("*/sweep"))
    if not sweeps:
        sys.exit(f"{home}: no folder `sweep` in it or in a folder of it")
    with tempfile.TemporaryDirectory() as made:
        command = [sys.executable, "-m", "sdqn_lab.report", *sweeps, "--out", made]
        subprocess.run([*command, *options], check=True)
        for folder, names in (SHOWN if own else CURVES).items():
            to = home / "report" / folder
            shutil.rmtree(to, ignore_errors=True)
            to.mkdir(parents=True)
            for name in names.split():
                if (file := Path(made, folder, f"{name}.{SUFFIX[folder]}")).exists():
                    shutil.copy(file, to)
        for name in ("scores", "aggregates") if own else ():
            table = Path(made, "tables", f"{name}.md").read_text(encoding="utf-8")
            print(table)
            (rows, *_) = re.findall(r"(?:^\|.*\n)+", table, re.MULTILINE)
            put(home / "README.md", name, rows)
    if own:
        # A row for each run that is there; the ledger knows the others.
        runs = home / "report" / "tables" / "runs.csv"
        table = pd.read_csv(runs, dtype=str, keep_default_na=False)
        table[table["state"] == "finished"].to_csv(runs, index=False)
        shutil.copy(runs, home)
    page = home / "README.md"
    for script in sorted(home.glob("*.py")):
        if f"<!-- {script.stem} -->" in page.read_text(encoding="utf-8"):
            printed = subprocess.run([sys.executable, script], check=True, stdout=subprocess.PIPE)
            table = printed.stdout.decode()
            print(table)
            put(page, script.stem, table)


def put(page: Path, name: str, table: str) -> None:
    """Replace a table between its marks; a page without the marks stays."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    if begin in text:
        before, behind = text.split(begin)[0], text.split(end)[1]
        page.write_text(f"{before}{begin}\n\n{table}\n{end}{behind}", encoding="utf-8")


if __name__ == "__main__":
    names = [word for word in sys.argv[1:] if not word.startswith("--")]
    if len(names) not in (1, 2):
        sys.exit(__doc__)
    target = RESULTS / names[-1]
    if len(names) == 2:
        take(Path(names[0]), target / "sweep")
    report(target, sys.argv[1 + len(names) :])
