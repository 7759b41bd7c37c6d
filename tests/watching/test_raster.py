"""Frames that show the game beside the network."""

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest

from sdqn_lab.watching import raster
from sdqn_lab.watching.episodes import Decision, Episodes, LayerActivity
from sdqn_lab.watching.raster import GAME, HEIGHT, Raster, enlarged

PICTURE = np.full((210, 160, 3), 7, np.uint8)


def layer(shown: np.ndarray) -> LayerActivity:
    return LayerActivity(shown, 10 * shown.shape[1], float((shown > 0).mean()))


def decision(seed: int, steps: int = 8, actions: int = 3, **changes) -> Decision:
    rng = np.random.default_rng(seed)
    layers = {
        name: layer((rng.random((steps, 64)) < 0.2).astype(np.float32))
        for name in ("conv1", "hidden")
    }
    values = rng.uniform(-1, 3, actions).astype(np.float32)
    made = Decision(values, seed % actions, bool(seed % 2), layers, float(seed))
    return made._replace(**changes)


def drawing(*decisions: Decision, spiking: bool = True, action: str = "action") -> Raster:
    player = SimpleNamespace(
        game="pong",
        arm="$pl_sdqn$",
        network=SimpleNamespace(temporal=spiking),
        policy=SimpleNamespace(outputs_name="Q-values"),
        cfg=SimpleNamespace(seed=0, choices={"protocol": "nature"}),
    )
    first = decisions[0]
    steps = len(next(iter(first.layers.values())).shown)
    played = Episodes(steps, [0.0], [1], {}, list(decisions), np.zeros((1, 1)))
    return Raster(player, played, [f"{action} {number}" for number in range(len(first.values))])


def pixels_of(frame: np.ndarray, color: str) -> int:
    """How many pixels of the lower right, where the values are, have a colour."""
    return int((frame[450:, 850:] == rgb(color)).all(-1).sum())


def rgb(color: str) -> np.ndarray:
    return np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)])


def test_each_spike_is_drawn_at_its_step_and_its_unit():
    shown = decision(4)
    drawn = drawing(shown)
    frame = drawn.draw(0, PICTURE).astype(int)
    for image, color, activity in zip(
        drawn.spikes, raster.LAYERS, shown.layers.values(), strict=False
    ):
        box = image.get_window_extent()
        for step in range(8):
            for unit in range(64):
                x = int(box.x0 + (step + 0.5) * box.width / 8)
                y = int(HEIGHT - box.y1 + (unit + 0.3) * box.height / 64)
                bright = np.abs(frame[y, x] - rgb(color)).max() <= 1
                assert bright == bool(activity.shown[step, unit])


@pytest.mark.parametrize(
    "changes",
    [
        {"score": 1_234_567.891, "action": 0, "explored": True},
        {"score": -0.001, "action": np.full(6, -0.125)},
    ],
    ids=["a long score and name", "six numbers"],
)
def test_texts_in_the_upper_row_do_not_touch(changes):
    drawn = drawing(*[decision(seed, **changes) for seed in range(1_000)], action="DOWNRIGHTFIRE")
    row = drawn.draw(999, PICTURE)[20:56, 552:]
    score, action, number = (
        np.flatnonzero((row == rgb(color)).all(-1).any(0))
        for color in (raster.BRIGHT, raster.CHOSEN, raster.DIM)
    )
    assert score.max() < action.min() - 6
    assert action.max() < number.min() - 6


def test_names_of_layers_end_where_their_columns_do():
    names = [f"policy_readout.population{number}" for number in range(6)]
    shown = decision(0)
    layers = dict.fromkeys(names, shown.layers["conv1"])
    frame = drawing(shown._replace(layers=layers)).draw(0, PICTURE)
    # Two neighbours of other colours never mix in one place.
    found = [
        np.flatnonzero((frame[110:130] == rgb(color)).all(-1).any(0)) for color in raster.LAYERS
    ]
    for left, right in pairwise(found):
        assert left.max() < right.min()


def test_the_game_is_drawn_pixel_by_pixel():
    picture = np.random.default_rng(0).integers(256, size=(210, 160, 3), dtype=np.uint8)
    frame = drawing(decision(0)).draw(0, picture)
    left, top, right, bottom = GAME
    assert np.array_equal(frame[top:bottom, left:right], picture.repeat(3, 0).repeat(3, 1))


def test_nothing_of_a_decision_stays_in_the_next_frame():
    drawn = drawing(decision(0), decision(1))
    first = drawn.draw(0, PICTURE)
    kept = first.copy()
    assert (drawn.draw(1, PICTURE) != first).any()
    assert np.array_equal(first, kept)
    assert np.array_equal(drawn.draw(0, PICTURE), kept)


@pytest.mark.parametrize(
    ("shape", "values"),
    [
        ({"actions": 18}, np.arange(1, 19)),
        ({}, [-3, -2, -1]),
        ({"steps": 1}, [1, 2, 3]),
        ({"steps": 1024}, [1, 2, 3]),
    ],
)
def test_the_chosen_action_has_its_bar_in_every_episode(shape, values):
    shown = decision(2, **shape, values=np.array(values, np.float32))
    frame = drawing(shown, spiking=shape.get("steps") != 1).draw(0, PICTURE)
    assert frame.shape == (720, 1280, 3)
    assert pixels_of(frame, raster.CHOSEN) > 200


def test_a_line_goes_over_the_middle_of_the_quantiles():
    ends = np.array([[0, 10], [5, 5], [np.nan, np.nan]], np.float32)
    wide = np.linspace(ends[:, 0], ends[:, 1], 11, axis=1)
    frames = [
        decision(0, values=np.array([5, 5, np.nan], np.float32), quantiles=quantiles)
        for quantiles in (wide, 5 + (wide - 5) / 2, None)
    ]
    drawn, lengths = drawing(*frames[:2]), []
    for number in range(2):
        bright = (drawn.draw(number, PICTURE)[450:, 850:] == rgb(raster.BRIGHT)).all(-1)
        columns = bright[bright.sum(1).argmax()].nonzero()[0]
        lengths.append(columns.max() - columns.min())
    # From 1 to 9, then from 3 to 7, on one axis.
    assert lengths[0] > 80
    assert lengths[0] == pytest.approx(2 * lengths[1], abs=3)
    bare = drawing(frames[2]).draw(0, PICTURE)
    assert pixels_of(bare, raster.BRIGHT) < 10


@pytest.mark.parametrize("values", [(np.nan, np.inf, -np.inf), (0, 0, 0)])
def test_what_is_zero_or_has_diverged_has_no_bar(values):
    shown = decision(2, values=np.array(values, np.float32))
    finite = shown._replace(values=np.ones(3, np.float32))
    frames = [drawing(each).draw(0, PICTURE) for each in (shown, finite)]
    assert pixels_of(frames[0], raster.CHOSEN) < 1000 < pixels_of(frames[1], raster.CHOSEN)


def test_of_a_network_without_time_the_stronger_answer_is_the_brighter():
    answers = np.linspace(0, 5, 64, dtype=np.float32)[None]
    drawn = drawing(decision(0, layers={"conv1": layer(answers)}), spiking=False)
    frame = drawn.draw(0, PICTURE)
    box = drawn.spikes[0].get_window_extent()
    column = frame[int(HEIGHT - box.y1) : int(HEIGHT - box.y0), int(box.x0) + 5].sum(1).astype(int)
    assert (np.diff(column[1::4]) >= 0).all()
    assert column[-3] > 2 * column[1]


@pytest.mark.parametrize("size", [(10, 10), (210, 160), (400, 600), (1000, 3), (1, 5000)])
def test_a_picture_of_any_size_is_made_to_fit(size):
    picture = np.full((*size, 3), 7, np.uint8)
    fitting = enlarged(picture, 480, 630)
    assert fitting.size
    assert fitting.shape[0] <= 630
    assert fitting.shape[1] <= 480
    assert fitting.shape[0] > 315 or fitting.shape[1] > 240
