"""Reference scores of games, and the scales on which games can be averaged."""

import csv
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Reference(NamedTuple):
    """Mean scores in raw points: of a random player, and of a human player."""

    random: float
    human: float


class Scale(NamedTuple):
    """Places scores of a game between a random player (0) and a reference (1).

    Attributes:
        name: what the reference is, for captions.
        random: mean score of the random player, game points.
        reference: mean score of the reference, game points.
    """

    name: str
    random: float
    reference: float

    def normalize(self, score: NDArray[np.float64] | float) -> NDArray[np.float64]:
        """(score - random) / (reference - random), element by element."""
        return np.asarray((score - self.random) / (self.reference - self.random))


@cache
def reference_scores() -> Mapping[str, Reference]:
    """Return game -> `Reference` for the 57 games of the usual benchmark, by ALE's ids.

    Source: the table of google-deepmind/dqn_zoo; Wang et al. 2016; Badia et al. 2020.
    """
    rows = _table("atari_scores.csv")
    return {row["game"]: Reference(float(row["random"]), float(row["human"])) for row in rows}


@cache
def scales() -> Mapping[str, Scale]:
    """Return game -> `Scale`, for the games that have one.

    Atari: human-normalized, 1 is the human player (Mnih et al. 2015). MinAtar has no human scores;
    there a DQN after 5M transitions is 1, as in Xu et al. 2026. It is a scale only: their protocol
    was another.
    """
    atari = {
        game: Scale("human-normalized", *scores) for game, scores in reference_scores().items()
    }
    minatar = {
        row["game"]: Scale("normalized by Xu et al.'s DQN", float(row["random"]), float(row["dqn"]))
        for row in _table("minatar_scores.csv")
    }
    return atari | minatar


def scale_of(game: str) -> Scale | None:
    """The scale of a game; None where there are no reference scores."""
    return scales().get(game)


def _table(file: str) -> list[dict[str, str]]:
    table = resources.files("sdqn_lab.envs") / "data" / file
    lines = [line for line in table.read_text().splitlines() if not line.startswith("#")]
    return list(csv.DictReader(lines))
