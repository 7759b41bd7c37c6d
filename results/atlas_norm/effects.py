"""Writes into README.md by how much choices move the score.

python results/atlas_norm/effects.py    from report/tables/scores.csv and runs.csv here

An effect is the difference of two arms' mean normalized scores (0 a random player, 1 the DQN of
Xu et al. 2026 after 5M steps; last window), mean over games. Intervals: 95% percentiles of a
bootstrap over the seeds of each arm within each game.
"""

from pathlib import Path

import numpy as np
import pandas as pd

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


def main() -> None:
    """Make the table anew."""
    rng = np.random.default_rng(SEED)
    runs = pd.read_csv(HERE / "runs.csv")
    scores = pd.read_csv(HERE / "report" / "tables" / "scores.csv")
    # The scale of each game: both columns hold the same means, and only differences count.
    scale = {
        game: np.ptp(rows["normalized_mean"]) / np.ptp(rows["last_mean"])
        for game, rows in scores.groupby("game")
    }
    of = runs.groupby(["arm", "game"])["score"].apply(np.array)
    lines = ["| change | effect | by game |", "|---|---|---|"]
    for name, (changed, base) in EFFECTS.items():
        drawn, seen = [], {}
        for game, slope in scale.items():
            sides = [slope * of[arm, game] for arm in (changed, base)]
            after, before = (rng.choice(x, (REPETITIONS, len(x))).mean(1) for x in sides)
            drawn.append(after - before)
            seen[game] = sides[0].mean() - sides[1].mean()
        low, high = np.quantile(np.mean(drawn, axis=0), [0.025, 0.975])
        by_game = ", ".join(f"{game.removeprefix('minatar_')} {x:+.2f}" for game, x in seen.items())
        mean = np.mean(list(seen.values()))
        lines.append(f"| {name} | **{mean:+.2f}** [{low:+.2f}, {high:+.2f}] | {by_game} |")
    page, begin, end = HERE / "README.md", "<!-- effects -->", "<!-- /effects -->"
    text, table = page.read_text(encoding="utf-8"), "\n".join(lines)
    before_it, behind = text.split(begin)[0], text.split(end)[1]
    page.write_text(f"{before_it}{begin}\n\n{table}\n\n{end}{behind}", encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main()
