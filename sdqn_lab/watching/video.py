"""Pictures to a video file that is either wholly there or not at all."""

import os
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from av.container import OutputContainer
from av.filter import Graph
from av.video.format import VideoFormat
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

Picture = npt.NDArray[np.uint8]
SUFFIXES = (".mp4", ".gif")
H264 = {"crf": "18", "preset": "veryfast"}
"""Sharp pixels at a few MB a minute."""


def write_video(path: Path, pictures: Iterable[Picture], pictures_per_second: float) -> int:
    """Encode pictures (H, W, 3), all of one size, and put the file in place when it is whole.

    An mp4 holds H.264, which every browser plays; sides that are odd grow by a pixel. A gif has a
    palette for each picture, so colours stay as they are up to 256 of them.

    Args:
        path: ends in one of `SUFFIXES`; a file that is there is replaced.
        pictures: made one by one as they are needed.
        pictures_per_second: the speed, > 0.

    Returns:
        How many pictures it holds.

    Raises:
        ValueError: the suffix is another, or there is no picture.
        OSError: the file cannot be written.
    """
    if path.suffix not in SUFFIXES:
        raise ValueError(f"path must end in {' or '.join(SUFFIXES)}, got {path}")
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        count = _encode(beside, path.suffix, pictures, Fraction(pictures_per_second))
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        beside.replace(path)
    except av.FFmpegError as error:
        raise OSError(error.errno, error.strerror) from error
    finally:
        beside.unlink(missing_ok=True)
    return count


def _encode(file: Path, suffix: str, pictures: Iterable[Picture], rate: Fraction) -> int:
    """Number of pictures written; each is encoded as soon as it is made."""
    with av.open(f"file:{file}", "w", format=suffix[1:]) as container:
        stream: VideoStream | None = None
        count = 0
        for picture in map(_even, pictures):
            if stream is None:
                stream = _stream(container, suffix, picture, rate)
                palette = _Palette(picture, rate) if suffix == ".gif" else None
            frame = VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = count, 1 / rate
            container.mux(stream.encode(palette(frame) if palette else frame))
            count += 1
        if stream is None:
            raise ValueError("pictures must not be empty")
        container.mux(stream.encode(None))
    return count


def _stream(
    container: OutputContainer, suffix: str, picture: Picture, rate: Fraction
) -> VideoStream:
    if suffix == ".gif":
        stream = container.add_stream("gif", rate=rate)
        stream.pix_fmt = "pal8"
    else:
        stream = container.add_stream("libx264", rate=rate, options=dict(H264))
        stream.pix_fmt = "yuv420p"
    stream.height, stream.width = picture.shape[:2]
    return stream


def _even(picture: Picture) -> Picture:
    """H.264 wants even sides; the last row or column is repeated where need be."""
    height, width = picture.shape[:2]
    padded = np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    return np.ascontiguousarray(padded)


class _Palette:
    """Pictures in colours to pictures with a palette of their own."""

    def __init__(self, picture: Picture, rate: Fraction) -> None:
        height, width = picture.shape[:2]
        self._graph = graph = Graph()
        rgb = VideoFormat("rgb24", width, height)
        source = graph.add_buffer(width=width, height=height, format=rgb, time_base=1 / rate)
        split = graph.add("split")
        make = graph.add("palettegen", "stats_mode=single")
        use = graph.add("paletteuse", "new=1:dither=none")
        sink = graph.add("buffersink")
        source.link_to(split)
        split.link_to(use, 0, 0)
        split.link_to(make, 1, 0)
        make.link_to(use, 0, 1)
        use.link_to(sink)
        graph.configure()

    def __call__(self, frame: VideoFrame) -> VideoFrame:
        self._graph.vpush(frame)
        return self._graph.vpull()
