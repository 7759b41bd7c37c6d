"""Curves, scores and figure of the sweep `plasticity`.

python results/plasticity/draw.py SWEEP_DIR    reads the runs into curves.csv and scores.csv, too
python results/plasticity/draw.py              draws curves.png from curves.csv
"""

import json
import sys
from pathlib import Path

import matplotlib as mpl
import pandas as pd
import yaml

mpl.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).parent
BEST = {"bandit": 1.0, "gridworld": 0.937}
CHANCE = 0.25
"""Of the bandit."""


def label(config: dict) -> str:
    """What distinguishes the arm."""
    algo = config["algo"]
    if algo["a_minus"] is not None:
        same = "with" if algo["same_step_depression"] else "without"
        return f"{algo['rule']}, a_minus {algo['a_minus']}, {same} depression in a step"
    return f"{algo['rule']}, {algo['modulator']}"


def read(sweep: Path) -> None:
    """Returns of training (bandit) or evaluation; the mean of the last two evaluations of each run.

    Environments start anew at each evaluation, and soon after only short walks have ended: of the
    gridworld, returns of training would go up and down with that.
    """
    curves, scores = [], []
    for file in sorted(sweep.glob("*/metrics.jsonl")):
        config = yaml.safe_load((file.parent / "config.yaml").read_text())
        run = {"env": config["choices"]["env"], "arm": label(config), "seed": config["seed"]}
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        evaluations = [line["eval/return_mean"] for line in lines if "eval/return_mean" in line]
        scores.append({**run, "score": sum(evaluations[-2:]) / 2, "steps": lines[-1]["step"]})
        key = "train/return" if run["env"] == "bandit" else "eval/return_mean"
        curves += [
            {**run, "step": line["step"], "return": round(line[key], 4)}
            for line in lines
            if key in line
        ]
    pd.DataFrame(curves).to_csv(HERE / "curves.csv", index=False)
    found = pd.DataFrame(scores).groupby(["env", "arm"])["score"].agg(["mean", "std", "count"])
    found.round(3).to_csv(HERE / "scores.csv")


def draw() -> None:
    """The mean over seeds of each arm, and all seeds between their lowest and highest."""
    curves = pd.read_csv(HERE / "curves.csv")
    curves["at"] = (curves["step"] // 200) * 200
    amplitudes = curves["arm"].str.contains("a_minus")
    panels = [
        ("bandit: rules", curves[(curves["env"] == "bandit") & ~amplitudes]),
        ("gridworld: rules", curves[(curves["env"] == "gridworld") & ~amplitudes]),
        ("bandit: the known failure", curves[(curves["env"] == "bandit") & amplitudes]),
    ]
    figure, axes = plt.subplots(1, 3, figsize=(15, 4.2), constrained_layout=True)
    for axis, (title, part) in zip(axes, panels, strict=True):
        for arm, of_arm in part.groupby("arm"):
            seeds = of_arm.groupby("at")["return"]
            axis.plot(seeds.mean(), label=arm)
            axis.fill_between(seeds.mean().index, seeds.min(), seeds.max(), alpha=0.15)
        env = title.partition(":")[0]
        axis.axhline(BEST[env], color="grey", linestyle=":", label="best")
        if env == "bandit":
            axis.axhline(CHANCE, color="grey", linestyle="--", label="chance")
        axis.set(
            title=title,
            xlabel="agent steps",
            ylabel=f"{'training' if env == 'bandit' else 'evaluation'} return",
        )
        axis.legend(fontsize=7)
    figure.savefig(HERE / "curves.png", dpi=110)


if __name__ == "__main__":
    for folder in sys.argv[1:]:
        read(Path(folder))
    draw()
