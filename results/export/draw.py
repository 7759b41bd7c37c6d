"""Draws calibration.png from calibration.csv, the table of docs/EXPORT.md.

python results/export/draw.py
"""

from itertools import product
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd

mpl.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).parent
TRAINED, FIXED, GREY = "#0072B2", "#D55E00", "#7F7F7F"
GAMES = ("Breakout", "Asterix", "Space Invaders")


def fall(of_game: pd.DataFrame) -> tuple[float, float, float]:
    """By what share the mean return falls, with a 95% bootstrap interval over the networks.

    Five networks can be drawn in 5^5 ways, which are all taken: no chance is left.
    """
    trained, fixed = of_game["trained"].to_numpy(), of_game["fixed"].to_numpy()
    draws = np.array(list(product(range(len(trained)), repeat=len(trained))))
    falls = 1 - fixed[draws].mean(1) / trained[draws].mean(1)
    low, high = np.quantile(falls, (0.025, 0.975))
    return 1 - fixed.mean() / trained.mean(), low, high


def draw() -> None:
    """Returns of each network before and after; what that is of the mean; which decisions stay."""
    rows = pd.read_csv(HERE / "calibration.csv")
    figure = plt.figure(figsize=(9, 5), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(3, 2))
    each_game, (falls, decisions) = above.subplots(1, 3), below.subplots(1, 2, sharey=True)
    for panel, game in zip(each_game, GAMES, strict=True):
        of_game = rows[rows["game"] == game]
        for row in of_game.itertuples():
            shift = (row.seed - 2) * 0.05
            panel.plot([shift, 1 + shift], [row.trained, row.fixed], color=GREY, lw=0.8)
            for x, name, color, marker in ((0, "trained", TRAINED, "o"), (1, "fixed", FIXED, "s")):
                mean, low, high = (getattr(row, f"{name}{end}") for end in ("", "_low", "_high"))
                ends = [[mean - low], [high - mean]]
                panel.errorbar(x + shift, mean, ends, fmt=marker, color=color, ms=4, lw=1)
        panel.set(title=game, xlim=(-0.4, 1.4), ylim=(0, None))
        panel.set_xticks([0, 1], ["as trained", "statistics\nfixed"])
    for place, game in enumerate(reversed(GAMES)):
        of_game = rows[rows["game"] == game]
        estimate, low, high = 100 * np.array(fall(of_game))
        each = 100 * (1 - of_game["fixed"] / of_game["trained"])
        falls.plot(each, [place - 0.25] * len(each), ".", color=GREY)
        ends = [[estimate - low], [high - estimate]]
        falls.errorbar(estimate, place, xerr=ends, fmt="o", color=FIXED, capsize=3)
        same = 100 * of_game["same_in_episodes"]
        decisions.plot(same, [place] * len(same), "o", color=TRAINED, ms=5, alpha=0.7)
    falls.set(xlim=(-2, 62), xlabel="fall of the mean return, % (grey: each network)")
    decisions.set(xlim=(0, 100), xlabel="decisions in the episodes that stay the same, %")
    each_game[0].set_ylabel("mean return")
    falls.set_yticks(range(len(GAMES)), GAMES[::-1])
    falls.set_ylim(-0.6, len(GAMES) - 0.4)
    for panel in figure.axes:
        panel.spines[["top", "right"]].set_visible(False)
    figure.savefig(HERE / "calibration.png", dpi=120)


if __name__ == "__main__":
    draw()
