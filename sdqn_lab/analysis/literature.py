"""Scores that others have printed, each with its source and its protocol."""

import csv
import importlib.resources
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path

import pandas as pd

from sdqn_lab.checks.refused import Refused
from sdqn_lab.envs.scores import reference_scores

ATARI = "atari"
COLUMNS = ("source", "protocol", "method", "game", "mean", "spread")


@dataclass(frozen=True)
class Result:
    """One printed score.

    Attributes:
        source: the publication.
        protocol: how it was measured.
        method: whose score.
        game: its id here; `ATARI`: the source has scores of Atari games that are not known to us.
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
        """`25.03 ± 2.23`."""
        return f"{self.mean} ± {self.spread}" if self.spread else self.mean


def printed() -> list[Result]:
    """The results that come with this package."""
    with importlib.resources.as_file(importlib.resources.files(__package__) / "data") as folder:
        return read(folder / "literature.csv")


def read(file: Path) -> list[Result]:
    """Results of a CSV file with the columns of `COLUMNS`.

    Raises:
        Refused: it is not there, no CSV, lacks a column, or a mean is no number.
    """
    try:
        with file.open(newline="") as text:
            head, *lines = list(csv.reader(text)) or [[]]
    except (OSError, ValueError, csv.Error) as error:
        raise Refused(f"--literature {file}", None, f"cannot be read: {error}") from error
    if missing := [name for name in COLUMNS if name not in head]:
        raise Refused(f"--literature {file}", None, f"no column {missing[0]}", ",".join(COLUMNS))
    results = []
    for number, row in enumerate(lines, start=2):
        place = f"--literature {file}, line {number}"
        if len(row) != len(head):
            if row:
                rule = f"{len(row)} fields, the heading has {len(head)}"
                raise Refused(place, None, rule, "a field with a comma in quotes")
            continue
        fields = dict(zip(head, row, strict=True))
        result = Result(*(fields[name].strip() for name in COLUMNS))
        if not result.game:
            raise Refused(place, None, "no game", "its id")
        try:
            finite = isfinite(float(result.mean or 0))
        except ValueError:
            finite = False
        if not finite:
            raise Refused(place, None, f"mean={result.mean} must be a number or empty")
        results.append(result)
    return results


def columns(results: Sequence[Result], games: Sequence[str]) -> dict[tuple[str, str], pd.DataFrame]:
    """(source, protocol) -> a row for each game, a column for each method.

    Sources that know none of the games are left out. Scores that a source has and we do not know
    are empty, until they are known under whatever protocol. What is read later replaces what was
    read before, so that a user's file fills and corrects.
    """
    # A source may print its scores under two protocols; then its empty row says so.
    elsewhere = {(r.source, r.method, r.game) for r in results if r.game != ATARI}
    spelled = [one for r in results for one in _by_game(r, games, elsewhere)]
    tables = {}
    for source in dict.fromkeys((result.source, result.protocol) for result in spelled):
        known = {(r.game, r.method): r.text for r in spelled if (r.source, r.protocol) == source}
        rows = [game for game in games if any(g == game for g, _ in known)]
        methods = list(dict.fromkeys(method for _, method in known))
        cells = [[known.get((game, method), "") for method in methods] for game in rows]
        if rows:
            table = pd.DataFrame(cells, columns=methods)
            table.insert(0, "game", rows)
            tables[source] = table
    return tables


def _by_game(
    result: Result, games: Sequence[str], known: Collection[tuple[str, str, str]]
) -> Iterator[Result]:
    """An empty result for each Atari game, in place of one for all; of known ones a hint."""
    if result.game != ATARI:
        yield result
        return
    atari = [game for game in games if game in reference_scores()]
    filled = {game for game in atari if (result.source, result.method, game) in known}
    # Once all are known an empty row would say that something is missing.
    if filled == set(atari):
        return
    for game in atari:
        yield replace(result, game=game, mean="in its own table" if game in filled else "")
