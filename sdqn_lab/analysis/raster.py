"""A decision as one picture: the game, every layer's spikes over time, firing rates, Q-values.

Pure drawing from arrays. What stays is drawn once; bars and words are redrawn on top of it, and
the game and the spikes are put in as whole pixels, so that nothing moves but what changed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator

Picture = npt.NDArray[np.uint8]
Array = npt.NDArray[np.float32]
WIDTH, HEIGHT = 1280, 720
"""Pixels of the whole picture."""
GROUND, PANEL, LINE = "#0d1117", "#161b22", "#30363d"
BRIGHT, DIM, BAR, CHOSEN = "#e6edf3", "#8b949e", "#6e7f91", "#f0e442"
LAYERS = ("#56b4e9", "#e69f00", "#00b386", "#cc79a7", "#d55e00", "#8fa7ff")
"""After Okabe and Ito, legible on a dark ground; more layers begin anew."""


CELL = 16
"""A pixel enlarged by this much or more is a cell of a board."""


class Box(NamedTuple):
    """A place in pixels, from the upper left corner."""

    left: int
    top: int
    width: int
    height: int


GAME = Box(32, 80, 480, 630)
RASTERS = Box(552, 134, 696, 256)
RATES = Box(628, 476, 164, 214)
VALUES = Box(952, 476, 236, 214)


class Face(NamedTuple):
    """What does not change of a layer.

    Attributes:
        name: as metrics call it.
        shown: units that are drawn.
        units: units that there are.
        top: output that is drawn in full brightness; 1 for spikes.
    """

    name: str
    shown: int
    units: int
    top: float


@dataclass(frozen=True)
class Scene:
    """What does not change during an episode; axes hold all of it, so that they can stand still.

    Attributes:
        title: what is played by whom.
        subtitle: under which rules.
        layers: from the observation on.
        actions: a name each.
        decisions: how many there are.
        time_window: T.
        spiking: whether outputs are spikes.
        top_rate: the highest firing rate.
        values: the lowest and the highest of the network's outputs.
        values_name: what these are, e.g. `Q-values`.
    """

    title: str
    subtitle: str
    layers: Sequence[Face]
    actions: Sequence[str]
    decisions: int
    time_window: int
    spiking: bool
    top_rate: float
    values: tuple[float, float]
    values_name: str


class Moment(NamedTuple):
    """What is seen of one decision.

    Attributes:
        picture: of the game, (H, W, 3).
        activity: for each layer (T, shown).
        rates: for each layer, in [0, 1].
        values: (A,) the network's outputs.
        action: what was done.
        explored: whether at random.
        number: of the decision, from 1.
        score: return so far.
    """

    picture: Picture
    activity: Sequence[Array]
    rates: Sequence[float]
    values: Array
    action: int
    explored: bool
    number: int
    score: float


class Raster:
    """Draws the moments of one scene.

    Args:
        scene: what stays.
    """

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        figure = Figure(figsize=(WIDTH / 100, HEIGHT / 100), dpi=100, facecolor=GROUND)
        self._canvas = FigureCanvasAgg(figure)
        self._axes = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(HEIGHT, 0))
        self._axes.set_axis_off()
        self._colors = [LAYERS[i % len(LAYERS)] for i in range(len(scene.layers))]
        self._columns = layer_boxes(scene)
        self._moving: list[Artist] = []
        self._draw_what_stays()
        self._add_what_moves()
        self._canvas.draw()  # type: ignore[no-untyped-call]
        self._ground = self._canvas.copy_from_bbox(figure.bbox)  # type: ignore[no-untyped-call]

    def draw(self, moment: Moment) -> Picture:
        """The picture of a moment, (720, 1280, 3)."""
        self._update(moment)
        self._canvas.restore_region(self._ground)  # type: ignore[no-untyped-call]
        for artist in self._moving:
            self._axes.draw_artist(artist)
        buffer = self._canvas.buffer_rgba()  # type: ignore[no-untyped-call]
        picture: Picture = np.asarray(buffer)[..., :3].copy()
        _put(picture, GAME, enlarged(moment.picture, GAME.width, GAME.height))
        for box, face, color, activity in zip(
            self._columns, self._scene.layers, self._colors, moment.activity, strict=True
        ):
            _put(picture, box, cells(activity / face.top, box, color))
        return picture

    def _draw_what_stays(self) -> None:
        scene = self._scene
        self._words(GAME.left, 38, _short(scene.title, 28), size=20, weight="bold")
        self._words(GAME.left, 64, _short(scene.subtitle, 66), color=DIM, size=11)
        what = "Spikes" if scene.spiking else "Activity"
        steps = f"time runs to the right, {scene.time_window} steps"
        meaning = f"a row a unit, {steps if scene.spiking else 'brighter is more'}"
        self._heading(RASTERS, RASTERS.top - 44, f"{what} of this decision", meaning)
        for box, face, color in zip(self._columns, scene.layers, self._colors, strict=True):
            caption = f"{face.shown} of {face.units:,} units"
            self._words(box.left, box.top - 13, face.name, color=color, size=12, weight="bold")
            self._words(box.left, box.top + box.height + 18, caption, color=DIM, size=10)
        rates = "Firing rate" if scene.spiking else "Share of active units"
        self._heading(Box(552, *RATES[1:]), RATES.top - 34, rates)
        self._heading(Box(850, *VALUES[1:]), VALUES.top - 34, scene.values_name)
        self._scale(RATES, len(scene.layers), 0.0, self._top_rate)
        self._scale(VALUES, len(scene.actions), *self._value_range)
        rows = _rows(RATES, len(scene.layers))
        for (y, height), face, color in zip(rows, scene.layers, self._colors, strict=True):
            middle = y + height / 2
            self._words(RATES.left - 10, middle, face.name, color=color, size=11, at="right")

    def _add_what_moves(self) -> None:
        scene = self._scene
        self._score = self._label(552, 38, size=20, weight="bold")
        self._move = self._label(850, 38, size=20, weight="bold")
        self._move.set_color(CHOSEN)
        self._number = self._label(1248, 38, at="right", size=11)
        self._number.set_color(DIM)
        zero = self._x(VALUES, 0.0, *self._value_range)
        rows = _rows(RATES, len(scene.layers))
        self._rate_bars = [
            self._bar(RATES.left, row, color) for row, color in zip(rows, self._colors, strict=True)
        ]
        self._rate_words = [
            self._label(RATES.left + RATES.width + 10, y + height / 2, size=10)
            for y, height in rows
        ]
        rows = _rows(VALUES, len(scene.actions))
        size = min(11.0, 0.6 * rows[0][1] + 2.8)
        self._value_bars = [self._bar(zero, row, BAR) for row in rows]
        self._names = [
            self._label(VALUES.left - 10, y + height / 2, name, at="right", size=size)
            for (y, height), name in zip(rows, scene.actions, strict=True)
        ]
        self._value_words = [
            self._label(VALUES.left + VALUES.width + 10, y + height / 2, size=size)
            for y, height in rows
        ]

    def _update(self, moment: Moment) -> None:
        action = self._scene.actions[moment.action]
        self._score.set_text(f"score {moment.score:,.10g}")
        self._number.set_text(f"decision {moment.number:,} of {self._scene.decisions:,}")
        self._move.set_text(f"{action} (random)" if moment.explored else action)
        for bar, words, rate in zip(self._rate_bars, self._rate_words, moment.rates, strict=True):
            bar.set_width(self._x(RATES, rate, 0.0, self._top_rate) - RATES.left)
            words.set_text(f"{rate:.3f}")
        zero = self._x(VALUES, 0.0, *self._value_range)
        for number, value in enumerate(moment.values.tolist()):
            color = CHOSEN if number == moment.action else BAR
            bar = self._value_bars[number]
            bar.set_width(self._x(VALUES, value, *self._value_range) - zero)
            bar.set_facecolor(color)
            self._value_words[number].set_text(f"{value:.3f}")
            for words in (self._names[number], self._value_words[number]):
                words.set_color(CHOSEN if number == moment.action else DIM)
                words.set_fontweight("bold" if number == moment.action else "normal")

    @property
    def _top_rate(self) -> float:
        return _ceiling(self._scene.top_rate)

    @property
    def _value_range(self) -> tuple[float, float]:
        low, high = self._scene.values
        return -_ceiling(-low) if low < 0 else 0.0, _ceiling(high) if high > 0 or not low else 0.0

    def _heading(self, box: Box, y: int, text: str, more: str = "") -> None:
        self._words(box.left, y, text, size=13, weight="bold")
        if more:
            self._words(box.left + box.width, y, more, color=DIM, size=11, at="right")

    def _scale(self, box: Box, rows: int, low: float, high: float) -> None:
        """Thin lines over all rows, with their numbers below."""
        for tick in MaxNLocator(3).tick_values(low, high):
            if not low <= tick <= high:
                continue
            x = self._x(box, tick, low, high)
            bottom = box.top + _pitch(box, rows) * rows
            self._axes.plot([x, x], [box.top, bottom], color=LINE, linewidth=1, zorder=0)
            self._words(x, bottom + 13, f"{tick:g}", color=DIM, size=9, at="center")

    @staticmethod
    def _x(box: Box, value: float, low: float, high: float) -> float:
        value = value if np.isfinite(value) else low  # of a network that has diverged
        return box.left + box.width * (value - low) / ((high - low) or 1.0)

    def _bar(self, left: float, row: tuple[float, float], color: str) -> Rectangle:
        bar = Rectangle((left, row[0]), 0, row[1], facecolor=color, animated=True)
        self._axes.add_patch(bar)
        self._moving.append(bar)
        return bar

    def _label(
        self,
        x: float,
        y: float,
        text: str = "",
        *,
        at: str = "left",
        size: float = 11,
        weight: str = "normal",
    ) -> Text:
        label = self._words(x, y, text, size=size, at=at, weight=weight)
        label.set_animated(True)
        self._moving.append(label)
        return label

    def _words(
        self,
        x: float,
        y: float,
        text: str,
        *,
        color: str = BRIGHT,
        size: float = 11,
        at: str = "left",
        weight: str = "normal",
    ) -> Text:
        words = self._axes.text(x, y, text, color=color, size=size, weight=weight)
        words.set(ha=at, va="center_baseline", parse_math=False)
        return words


def enlarged(picture: Picture, width: int, height: int) -> Picture:
    """The picture as large as fits, each pixel a square; one that is too large is thinned out.

    Squares that are large get a fine dark edge, so that neighbours of one colour can be counted.
    """
    scale = min(width / picture.shape[1], height / picture.shape[0])
    if scale < 1:
        rows, columns = (np.arange(max(1, int(n * scale))) / scale for n in picture.shape[:2])
        thinned: Picture = picture[rows.astype(int)][:, columns.astype(int)]
        return thinned
    factor = int(scale)
    large = np.repeat(np.repeat(picture, factor, axis=0), factor, axis=1)
    if factor >= CELL:
        large[factor - 1 :: factor] //= 2
        large[:, factor - 1 :: factor] //= 2
    return large


def cells(activity: Array, box: Box, color: str) -> Picture:
    """Activity (T, U) in [0, 1] as an image of the box's size: steps to the right, units down."""
    steps, units = activity.shape
    columns, rows = _places(box.width, steps), _places(box.height, units)
    light = activity.T[rows][:, columns].clip(0, 1)[..., None]
    ground, bright = _rgb(PANEL), _rgb(color)
    image: Picture = (ground + light * (bright - ground)).round().astype(np.uint8)
    image[_edges(rows)] = ground
    image[:, _edges(columns)] = ground
    return image


def _places(pixels: int, cells: int) -> npt.NDArray[np.int64]:
    """Which cell each pixel belongs to; cells are equally large where there is room."""
    used = pixels // cells * cells or pixels
    places: npt.NDArray[np.int64] = np.arange(used) * cells // used
    return places


def _edges(places: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The last pixel of each cell, if cells are large enough to be set apart."""
    last = np.flatnonzero(np.diff(places, append=places[-1] + 1))
    return last if len(places) >= 4 * len(last) else last[:0]


def _put(picture: Picture, box: Box, image: Picture) -> None:
    """Lay an image into a box, at the left and the top; what does not fit is left out."""
    image = image[: box.height, : box.width]
    height, width = image.shape[:2]
    picture[box.top : box.top + height, box.left : box.left + width] = image


def layer_boxes(scene: Scene) -> list[Box]:
    """Where each layer's spikes are drawn: side by side."""
    gap, count = 20, len(scene.layers)
    width = (RASTERS.width - gap * (count - 1)) // count
    left = range(RASTERS.left, RASTERS.left + RASTERS.width, width + gap)
    return [Box(x, RASTERS.top, width, RASTERS.height) for x in left[:count]]


def _rows(box: Box, count: int) -> list[tuple[float, float]]:
    """Top and height of each of several bars, with gaps, none thicker than reads well."""
    pitch = _pitch(box, count)
    return [(box.top + pitch * (row + 0.14), 0.72 * pitch) for row in range(count)]


def _short(text: str, most: int) -> str:
    """A text that stays left of what stands beside it."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _pitch(box: Box, count: int) -> float:
    return min(box.height / count, 44.0)


def _rgb(color: str) -> npt.NDArray[np.float32]:
    return np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)], np.float32)


def _ceiling(value: float) -> float:
    """The next number whose leading digits read well, >= value > 0; 1 for 0."""
    if value <= 0:
        return 1.0
    power = 10.0 ** np.floor(np.log10(value))
    steps = (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10)
    return float(next(step for step in steps if step * power >= value * (1 - 1e-9)) * power)
