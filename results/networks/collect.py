"""Commits the best network of each arm of a sweep, with a card.

python results/networks/collect.py SWEEP_DIR [GAME ...]

Of the finished seeds of an arm the one is taken whose evaluations in the last window have the
highest mean; the highest single evaluation would be the luckiest. Its last network then plays 100
episodes from starts that training never saw, and their mean stands on the card: a score that had
no part in the choice. Run again, it replaces what it wrote.
"""

import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import sdqn_lab
from sdqn_lab.analysis.find import compare
from sdqn_lab.analysis.scoring import Score, Scores
from sdqn_lab.runs.objective import LAST_SHARE
from sdqn_lab.training.evaluation import Start
from sdqn_lab.watching.episodes import play
from sdqn_lab.watching.summary import measure, protocol_line, score_text

HERE = Path(__file__).parent
FILES = ("config.yaml", "status.json", "network_last.safetensors")
"""All that `sdqn_lab.load` needs, and what the run was made with."""
EPISODES = 100
FRESH = 1_000
"""Added to the run's seed: streams of different seeds are independent."""
NAMES = {"lif": "LIF", "relu": "ReLU", "popnorm": "PopNorm", "none": "no norm"}

CARD = """# {title}

| | |
|---|---|
| score | **{score}**, mean return of {episodes} episodes with a 95% bootstrap interval over them |
| protocol | {protocol} |
| network | {parameters:,} parameters{window}, after the last step |
| trained | {steps:,} agent steps, algo={algo}, seed {seed} |
| chosen | best of {seeds} by mean evaluation in the last {share:.0%} of steps, {last:.2f} |
| code | commit {commit}, torch {torch}, {machine} |
| licence | Apache-2.0, as the project |

The score is of fresh episodes, which had no part in the choice. It is that of this one network, the
best of its arm: how arms compare is in the study's report.

```sh
# trained by
{command}
# scored by
python -m sdqn_lab.play {place} --episodes {episodes} --seed {fresh}
```

```python
import sdqn_lab

agent = sdqn_lab.load("{place}")
```
"""


def chosen(scores: Scores, games: Sequence[str]) -> Iterator[tuple[Score, int]]:
    """The best run of every arm, and of how many; games: those asked for, or none for all."""
    for task in scores.comparison.tasks:
        for arm in scores.comparison.arms:
            found = [each for each in scores.of(task, arm) if each.run.state == "finished"]
            if found and (not games or task.game in games):
                yield max(found, key=lambda score: score.last), len(found)


def commit(best: Score, seeds: int) -> None:
    """Copy a run's network, let it play, and write the card."""
    run, choices = best.run, best.run.choices
    axes = [str(choices[axis]) for axis in ("neuron", "norm")]
    place = HERE / run.game / "_".join(axes)
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    for name in FILES:
        shutil.copy(run.path / name, place)
    player, fresh = sdqn_lab.load(place), FRESH + int(run.seed)
    with closing(player.make_env(EPISODES)) as env:
        point = measure(player, play(player, env, Start(fresh, 0)), fresh)
    card = CARD.format(
        title=f"{run.game}: {' and '.join(NAMES.get(axis, axis) for axis in axes)}",
        score=score_text(point.score),
        episodes=EPISODES,
        protocol=protocol_line(player),
        parameters=sum(parameter.numel() for parameter in player.network.parameters()),
        window=f", T = {player.time_window}" if player.network.temporal else "",
        steps=run.steps,
        algo=choices["algo"],
        seed=run.seed,
        seeds="one seed" if seeds == 1 else f"{seeds} seeds",
        share=LAST_SHARE,
        last=best.last,
        commit=run.commit,
        torch=run.attempt["versions"]["torch"],
        machine=run.machine,
        command=run.facts["command"],
        place=place.relative_to(HERE.parents[1]),
        fresh=fresh,
    )
    (place / "README.md").write_text(card, encoding="utf-8")
    print(f"{place.relative_to(HERE)}: {score_text(point.score)}, seed {run.seed} of {seeds}")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    for score, count in chosen(compare([Path(sys.argv[1])]), sys.argv[2:]):
        commit(score, count)
