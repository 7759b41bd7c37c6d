"""Prints what every family reached on every task, beside published scores, as a table.

From the runs.csv of the folders here; `python results/collect.py algorithms` puts it into
README.md. A cell is the mean over five seeds of the mean evaluation return in the last fifth of
training, with a 95% percentile interval of a bootstrap over seeds.
"""

from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from sdqn_lab.analysis.statistics import interval, mean

HERE = Path(__file__).parent
SEED, SEEDS = 0, 5
TASKS = ("cartpole", "acrobot", "pendulum", "hopper", "minatar")
PAIRS = {
    "PQN": ("pl_pqn", "pqn"),
    "PPO": ("pl_ppo", "ppo"),
    "A2C": ("pl_a2c", "a2c"),
    "QR-DQN": ("pl_qr_dqn", "qr_dqn"),
    "DQN": ("pl_sdqn", "dqn"),
}
# CleanRL: three seeds, returns of training; SB3: RL Baselines3 Zoo, one run; gymnax: one number.
PUBLISHED = {
    ("cartpole", "PQN"): "495.1 ± 6.9 (CleanRL)",
    ("cartpole", "PPO"): "490.0 ± 6.1 (CleanRL)",
    ("cartpole", "A2C"): "500 (SB3)",
    ("cartpole", "DQN"): "488.7 ± 16.1 (CleanRL)",
    ("acrobot", "PPO"): "-86.4 ± 1.3 (CleanRL)",
    ("pendulum", "PPO"): "-172 (SB3)",
    ("hopper", "PPO"): "2,383 ± 272, v4, 1M steps (CleanRL)",
    ("minatar_breakout", "PPO"): "28, 10M steps (gymnax)",
    ("minatar_asterix", "PPO"): "15, 10M steps (gymnax)",
}


def main() -> None:
    """Print the table."""
    rng = np.random.default_rng(SEED)
    print("| task | algorithm | spikes | ReLU | published |\n|---|---|---|---|---|")
    for task in TASKS:
        if not (file := HERE / task / "runs.csv").exists():
            continue
        scores = pd.read_csv(file).groupby(["game", "arm"])["score"].apply(np.array)
        assert set(map(len, scores)) == {SEEDS}, file
        assert set(scores.index.unique("arm")) <= {arm for arms in PAIRS.values() for arm in arms}
        for game, (algorithm, arms) in product(scores.index.unique("game"), PAIRS.items()):
            cells = ["-", "-"]
            for column, arm in enumerate(arms):
                if (game, arm) in scores:
                    found = interval(mean, [scores[game, arm]], rng)
                    cells[column] = "{:,.1f} [{:,.1f}, {:,.1f}]".format(*found)
            if set(cells) != {"-"}:
                link = f"[{game}]({task}/README.md)"
                published = PUBLISHED.get((game, algorithm), "-")
                print(f"| {link} | {algorithm} | {' | '.join(cells)} | {published} |")


if __name__ == "__main__":
    main()
