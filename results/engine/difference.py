"""Prints how returns of the engine differ from those of the general path, as a table.

From runs.csv here, in ../general_path and in ../minatar; `python results/collect.py engine` puts it
into README.md.

The general path's runs are those of ../general_path; of a game and arm that are not there, those of
../minatar, made by older commits.

A line for each game and arm: the difference of mean evaluation returns over the last fifth of
training. The lines over all games: the mean of these differences, each as a share of the general
path's mean. Intervals: 95% percentiles of a bootstrap over the seeds of both sides.
"""

from pathlib import Path

import numpy as np
import pandas as pd

HERE = Path(__file__).parent
REPETITIONS, SEED = 20_000, 0
ARMS = ("pl_sdqn", "dqn")


def middle(drawn: np.ndarray, form: str) -> str:
    """The middle 95%."""
    low, high = np.quantile(drawn, [0.025, 0.975])
    return f"[{low:{form}}, {high:{form}}]"


def lines() -> list[str]:
    """Rows of the table."""
    rng = np.random.default_rng(SEED)
    ours, now, before = (
        pd.read_csv(folder / "runs.csv").groupby(["arm", "game"])["score"].apply(np.array)
        for folder in (HERE, HERE.parent / "general_path", HERE.parent / "minatar")
    )
    theirs = now.combine_first(before)
    found = ["| game | arm | engine | general path | difference |", "|---|---|---|---|---|"]
    for arm in ARMS:
        shares, drawn_shares = [], []
        for game, engine in ours[arm].items():
            general = theirs[arm, game]
            drawn = [rng.choice(x, (REPETITIONS, len(x))).mean(1) for x in (engine, general)]
            difference = engine.mean() - general.mean()
            shares.append(difference / general.mean())
            # Of the mean that was seen: one that is drawn can be 0.
            drawn_shares.append((drawn[0] - drawn[1]) / general.mean())
            sides = " | ".join(f"{x.mean():.2f} ({len(x)} seeds)" for x in (engine, general))
            span = middle(drawn[0] - drawn[1], ".2f")
            found.append(f"| {game} | `{arm}` | {sides} | {difference:.2f} {span} |")
        span = middle(np.mean(drawn_shares, axis=0), ".1%")
        found.append(f"| all {len(shares)} | `{arm}` | | | **{np.mean(shares):.1%}** {span} |")
    return found


if __name__ == "__main__":
    print("\n".join(lines()))
