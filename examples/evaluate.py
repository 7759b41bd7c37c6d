"""A trained network plays: its score with an interval, and the spikes of its first episode.

python examples/evaluate.py                                            a committed network
python examples/evaluate.py RUN_DIR --episodes 100 --out raster.png    your own
"""

import argparse
from contextlib import closing
from pathlib import Path

import matplotlib as mpl
import numpy as np

import sdqn_lab
from sdqn_lab.training.evaluation import Start
from sdqn_lab.watching.episodes import play
from sdqn_lab.watching.summary import measure, protocol_line, score_text

mpl.use("Agg")
import matplotlib.pyplot as plt

COMMITTED = Path(__file__).parents[1] / "results" / "networks" / "minatar_breakout" / "lif_popnorm"
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")  # Okabe and Ito
DECISIONS = 40

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
parser.add_argument("run_dir", type=Path, nargs="?", default=COMMITTED)
parser.add_argument("--episodes", type=int, default=30)
parser.add_argument("--seed", type=int, default=1_000, help="of the games; training had another")
parser.add_argument("--out", type=Path, default=Path("raster.png"))
args = parser.parse_args()

player = sdqn_lab.load(args.run_dir)
with closing(player.make_env(args.episodes)) as env:
    played = play(player, env, Start(args.seed, 0), with_layers=True)
point = measure(player, played, args.seed)
rates = ", ".join(f"{layer} {rate:.3f}" for layer, rate in point.firing_rates.items())
print(f"{player.game}, {player.arm}, {protocol_line(player)}")
print(f"mean return {score_text(point.score)}, 95% interval over {args.episodes} episodes")
print(f"firing rates: {rates}; {point.energy_nj:,.1f} nJ a decision")

first = played.first[:DECISIONS]
layers = list(first[0].layers)
figure, panels = plt.subplots(len(layers), 1, figsize=(9, 5), sharex=True, layout="constrained")
for panel, layer, color in zip(np.atleast_1d(panels), layers, COLORS * len(layers), strict=False):
    # Decision after decision, each T simulation steps: (steps, units).
    steps, units = np.nonzero(np.concatenate([decision.layers[layer].shown for decision in first]))
    panel.scatter(steps / played.time_window, units, s=4, marker="|", color=color)
    panel.set(ylabel=f"{layer}, units", xlim=(0, len(first)))
panel.set_xlabel(f"decision of the first episode, {played.time_window} simulation steps each")
what = "spikes" if player.network.temporal else "activity"
figure.suptitle(f"{player.game}, {player.arm}: {what} of at most 64 units of each layer")
figure.savefig(args.out, dpi=110)
print(f"raster: {args.out}")
