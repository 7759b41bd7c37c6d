"""A part of a report, and a table of it with its forms as CSV, Markdown and HTML."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from sdqn_lab.analysis.figures import Figure

FORMULA_SIGNS = ("=", "+", "-", "@", "\t", "\r")
HARMLESS = re.compile(r"-|[-+]?[\d.,]+(e[-+]?\d+)?( ± [\d.,]+)?")
"""A dash and numbers, with a spread or not."""


def defused(cell: object) -> object:
    """A cell of a CSV; a text that a spreadsheet would take for a formula gets a `'` before it."""
    risky = isinstance(cell, str) and cell.startswith(FORMULA_SIGNS)
    return f"'{cell}" if risky and not HARMLESS.fullmatch(str(cell)) else cell


def escaped(text: object) -> str:
    """A text in one line that Markdown shows as it is."""
    # Lone underscores and brackets are plain in every dialect, and names and intervals have them.
    signs = re.sub(r"([\\`*|<]|!(?=\[)|(?<=\])\()", r"\\\1", str(text))
    return " ".join(signs.split())


@dataclass(frozen=True)
class Table:
    """One table with everything that a reader needs to read it.

    Attributes:
        name: of its files.
        title: what it shows.
        caption: units, seeds, intervals, protocol.
        shown: what is printed: text, ready to read.
        data: what is computed with: numbers, one column each; None: as shown.
    """

    name: str
    title: str
    caption: str
    shown: pd.DataFrame
    data: pd.DataFrame | None = None

    def write(self, folder: Path) -> None:
        """Write `NAME.csv` with the numbers and `NAME.md` as it is shown."""
        numbers = self.shown if self.data is None else self.data
        # Names come from directories of others, and spreadsheets run what begins with these signs.
        numbers = numbers.map(defused).rename(columns=defused)
        numbers.to_csv(folder / f"{self.name}.csv", index=False, lineterminator="\n")
        (folder / f"{self.name}.md").write_text(self.markdown())

    def markdown(self) -> str:
        """Title, table and caption."""
        rows = self.shown.map(escaped).rename(columns=escaped)
        text = rows.to_markdown(index=False, disable_numparse=True)
        title, caption = (line.replace("<", r"\<") for line in (self.title, self.caption))
        return f"### {title}\n\n{text}\n\n{caption}\n"

    def html(self) -> str:
        """The table alone; numbers stand to the right."""
        return self.shown.to_html(index=False, border=0, classes="table", na_rep="")


@dataclass(frozen=True)
class Section:
    """A question and what answers it.

    Attributes:
        name: of its anchor in the page.
        title: the question.
        remarks: sentences that stand before everything else.
        items: tables and figures in their order.
    """

    name: str
    title: str
    remarks: Sequence[str] = ()
    items: Sequence[Table | Figure] = field(default_factory=list)

    @property
    def tables(self) -> list[Table]:
        """Its tables."""
        return [item for item in self.items if isinstance(item, Table)]

    @property
    def figures(self) -> list[Figure]:
        """Its figures."""
        return [item for item in self.items if isinstance(item, Figure)]
