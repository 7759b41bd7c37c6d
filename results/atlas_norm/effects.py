"""Prints by how much choices move the score, as a table, from runs.csv here.

`python results/collect.py atlas_norm` puts it into README.md.

An effect is the difference of two arms' mean normalized scores (0 a random player, 1 the DQN of
Xu et al. 2026 after 5M steps; last window), mean over games. Intervals: 95% percentiles of a
bootstrap over the seeds of each arm within each game.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from sdqn_lab.analysis.statistics import Array, Games, interval, mean
from sdqn_lab.envs.scores import scale_of

HERE = Path(__file__).parent
REPETITIONS, SEED = 20_000, 0
POINT = "neuron=lif, norm=popnorm"
EFFECTS = {
    "LIF, PopNorm taken away": ("neuron=lif, norm=none", POINT),
    "ReLU, PopNorm taken away": ("neuron=relu, norm=none", "neuron=relu, norm=popnorm"),
    "ReLU in place of LIF, both with PopNorm": ("neuron=relu, norm=popnorm", POINT),
    "ReLU in place of LIF, neither with a norm": (
        "neuron=relu, norm=none",
        "neuron=lif, norm=none",
    ),
}


def difference(games: Games) -> Array:
    """Mean of the first half of the arrays minus that of the second."""
    half = len(games) // 2
    return mean(games[:half]) - mean(games[half:])


def main() -> None:
    """Print the table."""
    rng = np.random.default_rng(SEED)
    runs = pd.read_csv(HERE / "runs.csv")
    of = {
        key: scale_of(key[1]).normalize(rows["score"].to_numpy())
        for key, rows in runs.groupby(["arm", "game"])
    }
    games = sorted(runs["game"].unique())
    lines = ["| change | effect | by game |", "|---|---|---|"]
    for name, arms in EFFECTS.items():
        scores = [of[arm, game] for arm in arms for game in games]
        effect = interval(difference, scores, rng, repetitions=REPETITIONS)
        found = [of[arms[0], game].mean() - of[arms[1], game].mean() for game in games]
        by_game = ", ".join(
            f"{game.removeprefix('minatar_')} {x:+.2f}"
            for game, x in zip(games, found, strict=True)
        )
        span = f"[{effect.low:+.2f}, {effect.high:+.2f}]"
        lines.append(f"| {name} | **{effect.estimate:+.2f}** {span} | {by_game} |")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
