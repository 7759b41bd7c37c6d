"""All sections of a report, and its files."""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from sdqn_lab.analysis.literature import Result
from sdqn_lab.analysis.report.ablation import ablation
from sdqn_lab.analysis.report.cells import cells, missing
from sdqn_lab.analysis.report.costs import costs
from sdqn_lab.analysis.report.how_sure import how_sure
from sdqn_lab.analysis.report.inside import inside
from sdqn_lab.analysis.report.learning import learning
from sdqn_lab.analysis.report.page import write_page
from sdqn_lab.analysis.report.section import Section
from sdqn_lab.analysis.report.who_wins import who_wins
from sdqn_lab.analysis.scores import Scores

PAGE = "index.html"
FOLDERS = ("figures", "tables")
"""Beside the page; what an earlier report left in them is replaced."""
MARK = '<meta name="generator" content="sdqn_lab.report">'
"""In the page: that it and the folders beside it may be replaced."""


def sections(scores: Scores, literature: Sequence[Result]) -> list[Section]:
    """Everything that a report says, in its order."""
    comparison = scores.comparison
    answers = [
        who_wins(scores, literature),
        how_sure(scores),
        learning(comparison),
        inside(scores),
        costs(scores),
        ablation(scores),
        cells(scores),
    ]
    told = [answer for answer in answers if answer is not None]
    # Last to be made, because the others find what is damaged; second to be read.
    return [told[0], missing(scores), *told[1:]]


def write(title: str, subtitle: Sequence[str], parts: Sequence[Section], out: Path) -> Path:
    """Write page, figures and tables; all is made beside before anything is replaced.

    Returns:
        The page.

    Raises:
        OSError: the folder cannot be written, or holds what is no report's; an earlier report is
            then still whole.
    """
    out.mkdir(parents=True, exist_ok=True)
    _check_own(out)
    with tempfile.TemporaryDirectory(prefix=".report-", dir=out) as name:
        beside = Path(name)
        for folder in FOLDERS:
            (beside / folder).mkdir()
        for part in parts:
            for figure in part.figures:
                figure.write(beside / "figures")
            for table in part.tables:
                table.write(beside / "tables")
        write_page(title, subtitle, parts, beside / PAGE)
        for folder in FOLDERS:
            shutil.rmtree(out / folder, ignore_errors=True)
            (beside / folder).replace(out / folder)
        (beside / PAGE).replace(out / PAGE)
    return out / PAGE


def _check_own(out: Path) -> None:
    """Only what an earlier report has made is replaced."""
    page = out / PAGE
    ours = page.is_file() and MARK in page.read_text(errors="replace")
    for path in (page, *(out / folder for folder in FOLDERS)):
        if path.exists() and not (ours and path.is_dir() == (path != page)):
            raise FileExistsError(f"{path} is not that of a report; write another folder")
