"""A decision as one frame: the game, every layer's spikes over time, firing rates, Q-values."""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patheffects import withStroke
from matplotlib.text import Text
from matplotlib.transforms import Bbox

if TYPE_CHECKING:
    from sdqn_lab.watching.episodes import Decision, Episodes
    from sdqn_lab.watching.player import Player

Frame = npt.NDArray[np.uint8]
Box = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels from the upper left corner."""
WIDTH, HEIGHT = 1280, 720
GAME: Box = (32, 80, 512, 710)
MIN_ROWS = 5
"""Bars are as thick as if there were at least so many."""
LETTERS = 13
"""Of a layer's name, for which there is room left of its bar."""
GAP = 12
"""Pixels between texts in a row."""
BOARD_CELL = 16
"""A pixel enlarged by this much or more is a cell of a board."""
GROUND, PANEL, LINE = "#0d1117", "#161b22", "#30363d"
BRIGHT, DIM, CHOSEN = "#e6edf3", "#8b949e", "#f0e442"
# After Okabe and Ito, legible on a dark ground; more layers begin anew.
LAYERS = ("#56b4e9", "#e69f00", "#00b386", "#cc79a7", "#d55e00", "#8fa7ff")
STYLE: dict[Any, Any] = {
    "figure.facecolor": GROUND,
    "axes.facecolor": GROUND,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.labelcolor": DIM,
    **{f"axes.spines.{side}": False for side in ("left", "right", "top", "bottom")},
    "text.color": BRIGHT,
    # A game or an action may have a dollar in its name.
    "text.parse_math": False,
    "ytick.major.size": 0,
}


class Raster:
    """Draws the decisions of the first episode, with axes that hold all of them and stand still.

    Args:
        player: who played.
        played: with the layers of every decision.
        actions: a name for each.

    Attributes:
        spikes: the image of each layer.
    """

    def __init__(self, player: "Player", played: "Episodes", actions: Sequence[str]) -> None:
        self._decisions, self._actions = played.first, actions
        layers, spiking = list(played.first[0].layers), player.network.temporal
        colors = [LAYERS[number % len(LAYERS)] for number in range(len(layers))]
        window = f", T = {played.time_window}" if spiking else ""
        rules = f"protocol {player.cfg.choices.get('protocol')}, seed {player.cfg.seed}"
        steps = f"time runs to the right, {played.time_window} steps"
        with rc_context(STYLE):
            self._figure = Figure(figsize=(WIDTH / 100, HEIGHT / 100), dpi=100)
            self._canvas = FigureCanvasAgg(self._figure)
            self._heading(32, 38, shortened(player.game.replace("_", " "), 28), size=20)
            self._remark(32, 64, shortened(f"{player.arm}{window}, {rules}", 66), ha="left")
            self._score = self._heading(552, 38, size=20)
            self._action = self._heading(850, 38, size=20, color=CHOSEN)
            self._number = self._remark(1248, 38)
            self._heading(552, 90, f"{'Spikes' if spiking else 'Activity'} of this decision")
            self._remark(1248, 90, f"one row per unit, {steps if spiking else 'brighter is more'}")
            self._heading(552, 442, "Firing rate" if spiking else "Share of active units")
            self._heading(850, 442, player.policy.outputs_name)
            box = (552, 134, 1248, 390)
            columns = self._columns(box, len(layers), wspace=0.03 * len(layers))
            self.spikes = list(map(self._layer_image, columns, layers, colors))
            left, right = self._columns((628, 476, 1188, 690), 2, wspace=0.8, width_ratios=(2, 3))
            rates = [[layer.rate for layer in each.layers.values()] for each in played.first]
            names = [shortened(name, LETTERS) for name in layers]
            self._rates = Bars(left, names, colors, rates)
            values = [decision.values for decision in played.first]
            ends = [middle(decision) for decision in played.first]
            shown = [*values, *(each.ravel() for each in ends if each is not None)]
            self._values = Bars(right, actions, [DIM] * len(actions), np.hstack(shown))

    def draw(self, number: int, picture: Frame) -> Frame:
        """The frame of a decision, (720, 1280, 3).

        Args:
            number: of the decision, from 0.
            picture: of the game, (H, W, 3).
        """
        decision = self._decisions[number]
        action, chosen = decision.action, None
        if isinstance(action, int):
            text, chosen = self._actions[action], action
        else:
            text = shortened("  ".join(f"{number:+.2f}" for number in action), 24)
        text = f"{text} (random)" if decision.explored else text
        # Not "-0", which a sum of small losses may be.
        score = f"{round(decision.score, 2) + 0.0:,.2f}".rstrip("0").rstrip(".")
        self._score.set(text=f"score {score}", fontsize=20.0)
        self._action.set(text=text, fontsize=20.0)
        self._number.set_text(f"decision {number + 1:,} of {len(self._decisions):,}")
        for text_left, text_right in pairwise((self._score, self._action, self._number)):
            self._fit(text_left, self._extent(text_right).x0 - GAP)
        layers = list(decision.layers.values())
        for image, layer in zip(self.spikes, layers, strict=True):
            image.set_data(cells(layer.shown))
        self._rates.show([layer.rate for layer in layers])
        self._values.show(decision.values.tolist(), chosen, middle(decision))
        self._canvas.draw()  # type: ignore[no-untyped-call]
        pixels = self._canvas.buffer_rgba()  # type: ignore[no-untyped-call]
        frame: Frame = np.asarray(pixels)[..., :3].copy()
        left, top, right, bottom = GAME
        game = enlarged(picture, right - left, bottom - top)
        # Not an image of the figure, which would be resampled: the game's pixels stay squares.
        frame[top : top + game.shape[0], left : left + game.shape[1]] = game
        return frame

    def _layer_image(self, axes: Axes, name: str, color: str) -> AxesImage:
        layer = self._decisions[0].layers[name]
        answers = np.concatenate([decision.layers[name].shown for decision in self._decisions])
        # Spikes are 1; of a ReLU's answers shades separate all but the strongest hundredth.
        top = float(np.quantile(answers[answers > 0], 0.99)) if answers.any() else 1.0
        shades = LinearSegmentedColormap.from_list(name, [PANEL, color])
        axes.set(xticks=[], yticks=[])
        title = axes.set_title(shortened(name, LETTERS), color=color)
        self._fit(title, self._extent(axes).x1)
        axes.set_xlabel(f"{layer.shown.shape[1]} of {layer.units:,} units", loc="left")
        image = cells(layer.shown)
        return axes.imshow(image, shades, aspect="auto", interpolation="nearest", vmin=0, vmax=top)

    def _columns(self, box: Box, count: int, **spacing: Any) -> list[Axes]:
        left, top, right, bottom = np.array(box) / (WIDTH, HEIGHT, WIDTH, HEIGHT)
        place = {"left": left, "right": right, "top": 1 - top, "bottom": 1 - bottom}
        grid = self._figure.add_gridspec(1, count, **place, **spacing)
        return list(grid.subplots(squeeze=False)[0])

    def _extent(self, artist: Artist) -> Bbox:
        return artist.get_window_extent(self._canvas.get_renderer())  # type: ignore[no-untyped-call]

    def _fit(self, text: Text, right: float) -> None:
        """Make a text that goes beyond a pixel so small that it ends there."""
        extent = self._extent(text)
        if extent.x1 > right:
            text.set_fontsize(text.get_fontsize() * (right - extent.x0) / extent.width)

    def _heading(self, x: int, y: int, text: str = "", **style: Any) -> Text:
        style = {"size": 13, "weight": "bold", "va": "center_baseline", **style}
        return self._figure.text(x / WIDTH, 1 - y / HEIGHT, text, **style)

    def _remark(self, x: int, y: int, text: str = "", ha: str = "right") -> Text:
        return self._heading(x, y, text, size=11, weight="normal", color=DIM, ha=ha)


class Bars:
    """A bar for each name, with its number beside it.

    Args:
        axes: where they are drawn.
        names: from the top.
        colors: of each bar and its name.
        values: all that will be shown, so that the axis holds them.
    """

    def __init__(
        self, axes: Axes, names: Sequence[str], colors: Sequence[str], values: npt.ArrayLike
    ) -> None:
        self._colors, rows = colors, range(len(names))
        # Eighteen actions must fit as well as three.
        size = min(11.0, 2.8 + 92 / len(names))
        self._bars = axes.barh(rows, [0.0] * len(rows), 0.72)
        # With a dark edge, so that a line is seen on a bar of any colour and beside it.
        edge = [withStroke(linewidth=4, foreground=GROUND)]
        ends: dict[str, Any] = {"color": BRIGHT, "lw": 1.6, "marker": "|", "path_effects": edge}
        self._ranges = [axes.plot([], [], **ends)[0] for _ in rows]
        axes.set_yticks(rows, names, size=size)
        beside: dict[str, Any] = {"va": "center_baseline", "transform": axes.get_yaxis_transform()}
        numbers = [axes.text(1.05, row, "", size=size, **beside) for row in rows]
        self._labels = list(zip(axes.get_yticklabels(), numbers, strict=True))
        finite = np.extract(np.isfinite(values), values)
        low, high = 1.05 * finite.min(initial=0.0), 1.05 * finite.max(initial=0.0)
        axes.set_xlim(low, high if high > low else 1.0)
        axes.set_ylim(max(len(rows), MIN_ROWS) - 0.5, -0.5)
        axes.set_xticks([])
        axes.axvline(0.0, color=LINE, zorder=0)

    def show(
        self,
        values: Sequence[float],
        chosen: int | None = None,
        ranges: npt.NDArray[np.floating] | None = None,
    ) -> None:
        """Draw a value for each name; the chosen one is marked.

        What is not finite, of a network that has diverged, has a number and no bar or line.

        Args:
            values: one for each name.
            chosen: the number of its name.
            ranges: (names, 2) from where to where a line goes; None: there are no lines.
        """
        if ranges is not None:
            for row, (line, ends) in enumerate(zip(self._ranges, ranges, strict=True)):
                line.set_data(ends if np.isfinite(ends).all() else (np.nan, np.nan), (row, row))
        for row, (bar, value) in enumerate(zip(self._bars, values, strict=True)):
            color = CHOSEN if row == chosen else self._colors[row]
            bar.set(width=value if np.isfinite(value) else 0.0, facecolor=color)
            for label in self._labels[row]:
                label.set(color=color, weight="bold" if row == chosen else "normal")
            self._labels[row][1].set_text(f"{value:.3f}")


def middle(decision: "Decision") -> npt.NDArray[np.floating] | None:
    """Where the middle 80% of each action's quantiles begin and end, (A, 2)."""
    if decision.quantiles is None:
        return None
    ends: npt.NDArray[np.floating] = np.quantile(decision.quantiles, (0.1, 0.9), axis=1).T
    return ends


def enlarged(picture: Frame, width: int, height: int) -> Frame:
    """The picture as large as fits, each pixel a square; one that is too large is thinned out.

    Squares that are large get a fine dark edge, so that neighbours of one colour can be counted.
    """
    scale = min(width / picture.shape[1], height / picture.shape[0])
    if scale < 1:
        rows, columns = (np.arange(max(1, int(n * scale))) / scale for n in picture.shape[:2])
        thinned: Frame = picture[rows.astype(int)][:, columns.astype(int)]
        return thinned
    # A whole factor, or some pixels would be larger than others.
    factor = int(scale)
    large = picture.repeat(factor, axis=0).repeat(factor, axis=1)
    if factor >= BOARD_CELL:
        large[factor - 1 :: factor] //= 2
        large[:, factor - 1 :: factor] //= 2
    return large


def cells(shown: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Activity (T, U) as an image: steps to the right, units down, gaps where there is room."""
    cell = np.pad(np.ones((3, 11), np.float32), ((0, 1), (0, 1)))
    return np.kron(shown.T, cell if 1 < len(shown) <= 32 else cell[:, :1])


def shortened(text: str, letters: int) -> str:
    """A text that stays left of what stands beside it."""
    return text if len(text) <= letters else f"{text[: letters - 1]}…"
