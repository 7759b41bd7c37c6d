"""Reference scores of Atari games, and the scale on which games can be averaged."""

from __future__ import annotations

import csv
import functools
import importlib.resources
import typing
from collections.abc import Mapping


class Reference(typing.NamedTuple):
    """Mean scores in raw points: of a random player, and of a human player."""

    random: float
    human: float


@functools.cache
def reference_scores() -> Mapping[str, Reference]:
    """Return game -> `Reference` for the 57 games of the usual benchmark, by ALE's ids.

    Source: the table of google-deepmind/dqn_zoo; Wang et al. 2016; Badia et al. 2020.
    """
    table = importlib.resources.files("sdqn_lab.envs") / "data" / "atari_scores.csv"
    lines = [line for line in table.read_text().splitlines() if not line.startswith("#")]
    return {
        row["game"]: Reference(float(row["random"]), float(row["human"]))
        for row in csv.DictReader(lines)
    }


def human_normalized_score(game: str, score: float) -> float:
    """Place a score between the random player (0.0) and the human player (1.0).

        normalized = (score - random) / (human - random)

    Args:
        game: ALE's id.
        score: Mean return in raw points.

    Raises:
        ValueError: The game has no reference scores.

    Source: Mnih et al. 2015.
    """
    if game not in reference_scores():
        raise ValueError(f"game must be one of the 57 with reference scores, got {game}")
    reference = reference_scores()[game]
    return (score - reference.random) / (reference.human - reference.random)
