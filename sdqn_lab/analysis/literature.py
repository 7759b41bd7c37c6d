"""Scores that others have printed, each with its source and its protocol."""

import importlib.resources
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

COLUMNS = ("source", "protocol", "method", "game", "mean", "spread")


class LiteratureError(Exception):
    """A file of results that cannot be read; the message says what to write."""


@dataclass(frozen=True)
class Result:
    """One printed score.

    Attributes:
        source: the publication.
        protocol: how it was measured, in words.
        method: whose score.
        game: its id here; empty: the source has scores that are not known to us.
        mean: as printed; empty where unknown.
        spread: as printed, whatever it is there; empty where there is none.
    """

    source: str
    protocol: str
    method: str
    game: str
    mean: str
    spread: str

    @property
    def text(self) -> str:
        """``25.03 ± 2.23``."""
        return f"{self.mean} ± {self.spread}" if self.spread else self.mean


def printed() -> list[Result]:
    """The results that come with this package."""
    with importlib.resources.as_file(importlib.resources.files(__package__) / "data") as folder:
        return read(folder / "literature.csv")


def read(file: Path) -> list[Result]:
    """Results of a CSV file with the columns of ``COLUMNS``.

    Raises:
        LiteratureError: it is not there, no CSV, lacks a column, or a mean is no number.
    """
    try:
        table = pd.read_csv(file, dtype=str, keep_default_na=False, comment="#")
    except (OSError, ValueError) as error:
        raise LiteratureError(f"--literature {file}: cannot be read: {error}") from error
    if missing := [name for name in COLUMNS if name not in table]:
        wanted = ",".join(COLUMNS)
        raise LiteratureError(f"--literature {file}: no column {missing[0]}; write {wanted}")
    means = pd.to_numeric(table["mean"], errors="coerce")
    wrong = table.index[means.isna() & (table["mean"] != "")]
    if len(wrong):
        found = table["mean"][wrong[0]]
        raise LiteratureError(
            f"--literature {file}: line {wrong[0] + 2}: mean={found}: must be a number or empty"
        )
    return [Result(*row) for row in table[list(COLUMNS)].itertuples(index=False)]


def columns(results: Sequence[Result], games: Sequence[str]) -> dict[tuple[str, str], pd.DataFrame]:
    """(source, protocol) -> a row a game, a column a method; only sources that know a game.

    A source without any game stays, with empty columns. What is read later replaces what was read
    before, so that a user's file fills and corrects.
    """
    tables = {}
    for source in dict.fromkeys((result.source, result.protocol) for result in results):
        of_source = [r for r in results if (r.source, r.protocol) == source]
        known = {(r.game, r.method): r.text for r in of_source}
        unknown = all(not game for game, _ in known)
        rows = [game for game in games if unknown or any(g == game for g, _ in known)]
        methods = list(dict.fromkeys(method for _, method in known))
        cells = [[known.get((game, method), "") for method in methods] for game in rows]
        if rows:
            table = pd.DataFrame(cells, columns=methods)
            table.insert(0, "game", rows)
            tables[source] = table
    return tables
