"""The first episode as a video: played again from its seed and its actions, frame by frame."""

import io
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import islice
from math import ceil
from pathlib import Path

import av
import numpy as np
from av.filter import Graph
from av.video.format import VideoFormat
from av.video.frame import VideoFrame

from sdqn_lab.checks.refused import Refused
from sdqn_lab.envs.base import VectorEnv, Watchable
from sdqn_lab.runs.files import write_atomic
from sdqn_lab.training.evaluation import Start
from sdqn_lab.watching.episodes import Episodes
from sdqn_lab.watching.player import Player
from sdqn_lab.watching.raster import Frame, Raster, enlarged

MAX_SIDE = 640
"""Pixels of a frame of the game alone, in both directions."""
GIF_RATE = 50.0
"""Frames per second: a gif counts in hundredths, and browsers show a single one as ten."""
# Text stays sharp at a few MB per minute.
H264 = {"crf": "18", "preset": "veryfast"}


def replay_env(player: Player, start: Start) -> Watchable:
    """The game with one copy, at the start of the first episode, and able to show itself.

    Raises:
        ValueError: it has no pictures.
    """
    env: VectorEnv = player.make_env(1)
    try:
        if not isinstance(env, Watchable):
            instead = "an environment with all that sdqn_lab.envs.base.Watchable names"
            raise Refused(type(env).__name__, None, "has no pictures", instead)
        env.reset(start.env_seed)
        env.picture()
    except BaseException:
        env.close()
        raise
    return env


def replayed(env: Watchable, played: Episodes) -> Iterator[Frame]:
    """What was seen at each decision of the first episode, (H, W, 3), in the game's own size.

    Args:
        env: as `replay_env` gives it.
        played: the episodes.

    Raises:
        Refused: the game goes another way than it went before.
    """
    # An emulator may differ from the one that was played; its rewards show it.
    score = 0.0
    for decision in played.first:
        if not np.isclose(score, decision.score):
            raise Refused("game", None, "does not repeat itself from its seed and its actions")
        yield env.picture()
        score += float(env.step(np.array([decision.action])).rewards[0])


def game_frames(env: Watchable, played: Episodes) -> Iterator[Frame]:
    """The game alone, enlarged."""
    return (enlarged(picture, MAX_SIDE, MAX_SIDE) for picture in replayed(env, played))


def raster_frames(env: Watchable, player: Player, played: Episodes) -> Iterator[Frame]:
    """The game beside what the network did for each decision, (720, 1280, 3)."""
    raster = Raster(player, played, env.action_names)
    return (raster.draw(*numbered) for numbered in enumerate(replayed(env, played)))


def write_video(path: Path, frames: Iterable[Frame], frames_per_second: float) -> int:
    """Encode frames (H, W, 3), all of one size, and put the file in place when it is whole.

    An mp4 holds H.264, which every browser plays; sides that are odd grow by a pixel. A gif has a
    palette for each frame, so colours stay as they are up to 256 of them; of faster games than
    `GIF_RATE` it holds every second frame, or every third and so on, at the same speed.

    Args:
        path: ends in .mp4 or .gif; a file that is there is replaced.
        frames: made one by one as they are needed.
        frames_per_second: the speed, > 0.

    Returns:
        How many frames it holds.

    Raises:
        Refused: the suffix is another, or there is no frame.
        OSError: the file cannot be written.
    """
    if path.suffix not in (".mp4", ".gif"):
        raise Refused("path", path, "must end in .mp4 or .gif")
    every = ceil(frames_per_second / GIF_RATE) if path.suffix == ".gif" else 1
    # A float as it is has a denominator that FFmpeg cannot hold.
    rate = Fraction(frames_per_second / every).limit_denominator(1000)
    encoded, count, palette = io.BytesIO(), 0, None
    with av.open(encoded, "w", format=path.suffix[1:]) as container:
        if path.suffix == ".gif":
            stream = container.add_stream("gif", rate=rate)
            stream.pix_fmt = "pal8"
        else:
            stream = container.add_stream("libx264", rate=rate, options=dict(H264))
            stream.pix_fmt = "yuv420p"
        for count, pixels in enumerate(islice(frames, 0, None, every), start=1):
            height, width = pixels.shape[:2]
            # H.264 wants even sides.
            even = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            frame = VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
            frame.pts, frame.time_base = count - 1, 1 / rate
            if count == 1:
                stream.height, stream.width = even.shape[:2]
                palette = palette_of_each(frame) if path.suffix == ".gif" else None
            if palette is not None:
                palette.vpush(frame)
                frame = palette.vpull()
            container.mux(stream.encode(frame))
        if not count:
            raise Refused("frames", None, "must not be empty")
        container.mux(stream.encode(None))
    write_atomic(path, encoded.getvalue())
    return count


def palette_of_each(frame: VideoFrame) -> Graph:
    """FFmpeg's filters that give every frame like this one 256 colours of its own."""
    graph, (width, height) = Graph(), (frame.width, frame.height)
    rgb = VideoFormat("rgb24", width, height)
    source = graph.add_buffer(width=width, height=height, format=rgb, time_base=frame.time_base)
    split, sink = graph.add("split"), graph.add("buffersink")
    generate = graph.add("palettegen", "stats_mode=single")
    use = graph.add("paletteuse", "new=1:dither=none")
    graph.link_nodes(source, split, use, sink)
    split.link_to(generate, 1, 0)
    generate.link_to(use, 0, 1)
    graph.configure()
    return graph
