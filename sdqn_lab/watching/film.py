"""The first episode once more, as pictures: it is played again from its seed and its actions."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from sdqn_lab.analysis.raster import Face, Moment, Raster, Scene, enlarged
from sdqn_lab.envs.base import VectorEnv, Watchable
from sdqn_lab.training.evaluation import Start
from sdqn_lab.watching.episodes import Decision, Episodes
from sdqn_lab.watching.player import Player

Picture = npt.NDArray[np.uint8]
SIDE = 640
"""Most pixels of a picture of the game alone, in both directions."""


class FilmError(Exception):
    """A game that cannot be shown, in a line."""


def opened(player: Player, start: Start) -> Watchable:
    """The game with one copy, at the start of the first episode, and able to show itself.

    Raises:
        FilmError: it has no pictures.
    """
    env: VectorEnv = player.make_env(1)
    if not isinstance(env, Watchable):
        env.close()
        raise FilmError(
            f"{type(env).__name__} has no pictures; write an environment with picture(), "
            "action_names and decisions_per_second, as sdqn_lab.envs.base.Watchable says"
        )
    env.reset(start.env_seed)
    try:
        env.picture()
    except ValueError as error:
        env.close()
        raise FilmError(str(error).replace(": write ", "; write ")) from error
    return env


def replayed(env: Watchable, first: list[Decision]) -> Iterator[Picture]:
    """What was seen at each decision, (H, W, 3), in the game's own size.

    Args:
        env: as `opened` gives it.
        first: the decisions of the episode.

    Raises:
        FilmError: the game goes another way than it went before.
    """
    score = 0.0
    for decision in first:
        if not np.isclose(score, decision.score):
            raise FilmError("the game does not repeat itself from its seed and its actions")
        yield env.picture()
        score += float(env.step(np.array([decision.action])).rewards[0])


def plain(env: Watchable, played: Episodes) -> Iterator[Picture]:
    """The game alone, enlarged."""
    for picture in replayed(env, played.first):
        yield enlarged(picture, SIDE, SIDE)


def with_raster(env: Watchable, player: Player, played: Episodes) -> Iterator[Picture]:
    """The game beside what the network did for each decision, (720, 1280, 3).

    Args:
        env: as `opened` gives it.
        player: who played.
        played: with the layers of every decision.
    """
    raster = Raster(scene(env, player, played))
    for number, picture in enumerate(replayed(env, played.first), start=1):
        yield raster.draw(moment(picture, played.first[number - 1], number))


def scene(env: Watchable, player: Player, played: Episodes) -> Scene:
    """What stays the same during the episode, with axes that hold all of it."""
    first, spiking = played.first, player.network.temporal
    values = np.concatenate([decision.values for decision in first])
    values = values[np.isfinite(values)]
    faces = [
        Face(
            name,
            layer.shown.shape[1],
            layer.units,
            1.0 if spiking else _full_brightness([d.layers[name].shown for d in first]),
        )
        for name, layer in first[0].layers.items()
    ]
    time = f", T = {played.time_window}" if spiking else ""
    protocol = player.cfg.choices.get("protocol")
    return Scene(
        player.game.replace("_", " "),
        f"{player.arm}{time}, protocol {protocol}, seed {player.cfg.seed}",
        faces,
        env.action_names,
        len(first),
        played.time_window,
        spiking,
        max(layer.rate for decision in first for layer in decision.layers.values()),
        (float(values.min(initial=0.0)), float(values.max(initial=0.0))),
        player.policy.outputs_name,
    )


def _full_brightness(activity: list[npt.NDArray[np.float32]]) -> float:
    """So that all but the strongest hundredth of the answers can be told apart."""
    answers = np.concatenate(activity)
    return float(np.quantile(answers[answers > 0], 0.99)) if (answers > 0).any() else 1.0


def moment(picture: Picture, decision: Decision, number: int) -> Moment:
    """What is drawn of one decision."""
    layers = decision.layers.values()
    return Moment(
        picture,
        [layer.shown for layer in layers],
        [layer.rate for layer in layers],
        decision.values,
        decision.action,
        decision.explored,
        number,
        decision.score,
    )
