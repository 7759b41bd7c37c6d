"""A table of a report: what it says, and its forms as CSV, Markdown and HTML."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd


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
        """Write ``NAME.csv`` with the numbers and ``NAME.md`` as it is shown."""
        numbers = self.shown if self.data is None else self.data
        numbers.to_csv(folder / f"{self.name}.csv", index=False, lineterminator="\n")
        (folder / f"{self.name}.md").write_text(self.markdown())

    def markdown(self) -> str:
        """Title, table and caption."""
        return f"### {self.title}\n\n{self.rows()}\n\n{self.caption}\n"

    def rows(self) -> str:
        """The table alone, in Markdown."""
        text = self.shown.map(lambda value: str(value).replace("|", "\\|"))
        return text.to_markdown(index=False, disable_numparse=True)

    def html(self) -> str:
        """The table alone; numbers stand to the right."""
        return self.shown.to_html(index=False, border=0, classes="table", na_rep="")
