"""What is asked of `python -m sdqn_lab.play`, checked as far as it can be without the run."""

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from sdqn_lab.checks.refused import Refused

MAX_EPISODES = 1_000
"""Each has an environment of its own."""
MAX_TIME_WINDOW = 1_024
"""Sixty-four times what was published."""
WHOLE = {
    "--episodes": (1, MAX_EPISODES),
    "--seed": (0, None),
    "--time-window": (1, MAX_TIME_WINDOW),
}
"""Options that take a whole number, with the least and the largest."""


class Request(argparse.Namespace):
    """What is asked for.

    Each attribute is an option of the command, whose help says what it means; None: not given.
    """

    run_dir: Path
    episodes: int | None
    which: str
    protocol: str | None
    seed: int | None
    time_window: int | None
    video: Path | None
    raster: bool
    time_windows: list[int] | None
    out: Path | None
    trust: bool

    @property
    def figure(self) -> Path:
        """Where the comparison is drawn."""
        return self.out or self.run_dir / "time_windows.png"


def whole(text: str) -> int | str:
    """A whole number; any other text stays as it is and is refused with all else that is wrong."""
    return int(text) if text.isascii() and text.isdigit() else text


def whole_list(text: str) -> list[int] | str:
    """Whole numbers, rising, each once; any other text stays as it is."""
    numbers = [whole(part) for part in text.split(",")]
    found = {number for number in numbers if isinstance(number, int)}
    ok = len(found) and all(isinstance(n, int) and 1 <= n <= MAX_TIME_WINDOW for n in numbers)
    return sorted(found) if ok else text


def mistakes(request: Request) -> Iterator[Refused]:
    """All that is wrong with a request."""
    for flag, (low, high) in WHOLE.items():
        value = getattr(request, flag[2:].replace("-", "_"))
        fits = isinstance(value, int) and low <= value <= (high or value)
        if value is not None and not fits:
            rule = f"must be a whole number >= {low}{f' and <= {high}' if high else ''}"
            yield Refused(flag, value, rule, f"{flag}={max(low, 1)}")
    if isinstance(request.time_windows, str):
        rule = f"must be whole numbers from 1 to {MAX_TIME_WINDOW} with commas between"
        yield Refused("--time-windows", request.time_windows, rule, "--time-windows=1,2,4,8,16")
    if request.which not in ("last", "best"):
        yield Refused("--which", request.which, "must be last or best", "--which=last")
    if request.raster and request.video is None:
        yield Refused("--raster", None, "needs a video", "--video=out.mp4 --raster")
    if request.time_windows is None and request.out is not None:
        instead = f"--time-windows=1,2,4,8,16, or --video={request.out.stem}.mp4"
        yield Refused("--out", request.out, "is the figure of --time-windows", instead)
    for flag, value in (("--video", request.video), ("--time-window", request.time_window)):
        if request.time_windows is not None and value is not None:
            rule = "goes with one T, and --time-windows asks for several; leave out one of them"
            yield Refused(flag, value, rule)
    if request.video is not None:
        yield from file_mistakes("--video", request.video, (".mp4", ".gif"))
    if isinstance(request.time_windows, list) and (
        request.out is not None or request.run_dir.is_dir()
    ):
        yield from file_mistakes("--out", request.figure, (".png",))


def file_mistakes(flag: str, path: Path, suffixes: Sequence[str]) -> Iterator[Refused]:
    """What keeps a file of one of these kinds from being put there; nothing is left behind."""
    if path.suffix not in suffixes:
        instead = " or ".join(f"{flag}={path.stem or 'out'}{suffix}" for suffix in suffixes)
        yield Refused(flag, path, f"must end in {' or '.join(suffixes)}", instead)
        return
    try:
        if path.is_dir():
            raise IsADirectoryError(0, "a directory is there")
        # Writing is the only sure test of rights and room.
        with tempfile.TemporaryFile(dir=path.parent, prefix=path.name) as probe:
            probe.write(bytes(1 << 16))
    except OSError as error:
        yield unwritable(flag, path, error)


def unwritable(flag: str, path: Path, error: OSError) -> Refused:
    """A file that the system does not take."""
    rule = f"cannot be written, {error.strerror or error}"
    return Refused(flag, path, rule, f"{flag}=FILE, a file where there is room")
