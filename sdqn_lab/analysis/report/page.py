"""The page: one self-contained file that opens from disk without network."""

import base64
from collections.abc import Sequence
from pathlib import Path

import jinja2

from sdqn_lab.analysis.figures import Figure
from sdqn_lab.analysis.report.section import Section
from sdqn_lab.runs.files import write_atomic


def write_page(
    title: str, subtitle: Sequence[str], sections: Sequence[Section], file: Path
) -> None:
    """Write the HTML file; figures are inside it, as SVG."""
    loader = jinja2.PackageLoader("sdqn_lab.analysis.report", "templates")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["picture"] = _picture
    environment.tests["figure"] = lambda item: isinstance(item, Figure)
    page = environment.get_template("page.html.j2").render(
        title=title, subtitle=subtitle, sections=sections
    )
    write_atomic(file, page.encode())


def _picture(figure: Figure) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(figure.svg).decode()}"
