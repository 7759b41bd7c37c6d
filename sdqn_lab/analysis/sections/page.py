"""All sections of a report, and its files: a page that opens from disk without network."""

import base64
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import jinja2

from sdqn_lab.analysis.figures import Figure
from sdqn_lab.analysis.literature import Result
from sdqn_lab.analysis.scoring import Scores
from sdqn_lab.analysis.sections.ablation import ablation
from sdqn_lab.analysis.sections.costs import costs
from sdqn_lab.analysis.sections.firing import firing
from sdqn_lab.analysis.sections.learning_curves import learning_curves
from sdqn_lab.analysis.sections.run_list import missing, run_list
from sdqn_lab.analysis.sections.score_tables import score_tables
from sdqn_lab.analysis.sections.section import Section
from sdqn_lab.analysis.sections.uncertainty import uncertainty
from sdqn_lab.checks.refused import Refused
from sdqn_lab.runs.files import write_atomic

PAGE = "index.html"
FOLDERS = ("figures", "tables")
"""Beside the page; what an earlier report left in them is replaced."""
MARK = '<meta name="generator" content="sdqn_lab.report">'
"""In the page: that it and the folders beside it may be replaced."""


def sections(scores: Scores, literature: Sequence[Result]) -> list[Section]:
    """Everything that a report says, in its order."""
    first = score_tables(scores, literature)
    others = [
        uncertainty(scores),
        learning_curves(scores.comparison),
        firing(scores),
        costs(scores),
        ablation(scores),
        run_list(scores),
    ]
    # Last to be made, because the others find what is damaged; second to be read.
    return [first, missing(scores), *(section for section in others if section is not None)]


def write(scores: Scores, parts: Sequence[Section], out: Path, title: str, command: str) -> Path:
    """Write page, figures and tables; all is made beside before anything is replaced.

    Args:
        scores: what is reported.
        parts: its `sections`.
        out: the folder.
        title: the heading.
        command: what makes the report again.

    Returns:
        The page.

    Raises:
        Refused: the folder cannot be written, or holds what is no report's; an earlier report is
            then still whole.
    """
    page = out / PAGE
    try:
        # Only what an earlier report has made is replaced.
        ours = page.is_file() and MARK in page.read_text(errors="replace")
        for path in (page, *(out / folder for folder in FOLDERS)):
            if path.exists() and not (ours and path.is_dir() == (path != page)):
                raise Refused(
                    f"--out {out}", None, f"{path} is not that of a report", "another folder"
                )
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".report-", dir=out) as name:
            beside = Path(name)
            for folder in FOLDERS:
                (beside / folder).mkdir()
            for part in parts:
                for figure in part.figures:
                    figure.write(beside / "figures")
                for table in part.tables:
                    table.write(beside / "tables")
            write_atomic(beside / PAGE, _html(scores, parts, title, command).encode())
            for folder in FOLDERS:
                # Whatever failed before this line, the earlier report is whole.
                shutil.rmtree(out / folder, ignore_errors=True)
                (beside / folder).replace(out / folder)
            (beside / PAGE).replace(page)
    except OSError as error:
        raise Refused(f"--out {out}", None, f"cannot be written: {error}") from error
    return page


def _html(scores: Scores, parts: Sequence[Section], title: str, command: str) -> str:
    loader = jinja2.PackageLoader("sdqn_lab.analysis.sections", "templates")
    # Names come from directories of others: all are escaped.
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["base64"] = lambda data: base64.b64encode(data).decode()
    environment.tests["figure"] = lambda item: isinstance(item, Figure)
    return environment.get_template("page.html.j2").render(
        title=title, comparison=scores.comparison, command=command, sections=parts
    )
