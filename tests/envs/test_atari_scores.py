"""The reference scores and the human-normalized scale."""

import csv
from pathlib import Path

import pytest

import sdqn_lab.envs
from sdqn_lab.envs.atari import games
from sdqn_lab.envs.scores import reference_scores, scale_of


def test_every_game_of_the_file_is_in_the_table():
    file = Path(sdqn_lab.envs.__file__).parent / "data" / "atari_scores.csv"
    lines = [line for line in file.read_text().splitlines() if not line.startswith("#")]
    rows = {row[0]: tuple(map(float, row[1:])) for row in csv.reader(lines[1:])}
    assert len(rows) == 57
    assert {game: tuple(scores) for game, scores in reference_scores().items()} == rows


def test_every_game_of_the_table_can_be_played():
    assert set(reference_scores()) <= set(games())


@pytest.mark.parametrize(
    ("game", "score", "normalized"),
    [
        # (score - random) / (human - random), by hand from the published random and human scores
        ("pong", -20.7, 0.0),
        ("pong", 14.6, 1.0),
        ("pong", 21.0, 41.7 / 35.3),
        ("breakout", 16.1, 0.5),
        ("space_invaders", 148.0 + 3 * 1520.7, 3.0),
        ("alien", 227.8 - 689.99, -0.1),
    ],
)
def test_normalization_puts_random_at_zero_and_human_at_one(game, score, normalized):
    assert scale_of(game).normalize(score) == pytest.approx(normalized)


def test_a_game_without_reference_scores_has_no_scale():
    assert scale_of("tetris") is None
