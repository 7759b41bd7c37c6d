"""Committed results say what they were made with, and are what their run directories say."""

import re
from pathlib import Path

import pandas as pd
import pytest

from sdqn_lab.analysis.literature import printed
from sdqn_lab.analysis.report.write import sections
from sdqn_lab.report import compare

ROOT = Path(__file__).resolve().parents[1]
STUDIES = sorted((ROOT / "results").glob("*/sweep"))
IDS = [study.parent.name for study in STUDIES]
WANTED = ("game", "arm", "seed", "steps", "score", "protocol", "sha", "hardware", "command")


@pytest.fixture(scope="module", params=STUDIES, ids=IDS)
def study(request):
    return request.param


@pytest.fixture(scope="module")
def tables(study):
    parts = sections(compare([study]), printed())
    return {table.name: table for part in parts for table in part.tables}


def committed(study: Path) -> pd.DataFrame:
    return pd.read_csv(study.parent / "runs.csv", dtype={"sha": str})


def test_every_score_carries_what_it_was_made_with(study):
    runs = committed(study)
    assert len(runs)
    assert not runs[list(WANTED)].isna().any(axis=None)
    assert (runs["state"] == "finished").all()
    assert runs["command"].str.startswith("python -m sdqn_lab.run ").all()


def test_no_score_was_made_with_changed_code(study):
    shas = [sha for told in committed(study)["sha"] for sha in told.split(", ")]
    assert all(re.fullmatch("[0-9a-f]{8}", sha) for sha in shas)


def test_the_rows_are_those_of_the_run_directories(study, tables):
    runs = committed(study).set_index("run")
    found = tables["runs"].data.set_index("run")
    finished = found[found["state"] == "finished"]
    assert set(runs.index) == set(finished.index)
    for column in ("score", "best", "steps"):
        assert runs[column].to_dict() == pytest.approx(finished[column].to_dict())


def test_the_tables_beside_them_are_what_the_report_makes_now(study, tables):
    files = {file.stem: file for file in (study.parent / "report" / "tables").glob("*.md")}
    assert files.keys() == tables.keys()
    for name, file in files.items():
        assert file.read_text() == tables[name].markdown()


def test_every_number_of_the_readme_is_in_the_report(study, tables):
    readme = (ROOT / "README.md").read_text()
    for name in ("scores", "aggregates"):
        assert tables[name].rows() in readme
