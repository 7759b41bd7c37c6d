"""The words of ``python -m sdqn_lab.play``, checked as far as they can be without the run."""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from sdqn_lab.watching.video import SUFFIXES

MOST_EPISODES = 1_000
"""Each has an environment of its own."""
MOST_STEPS = 1_024
"""Of a decision: sixty-four times what was published."""
WHICH = ("last", "best")


class CommandError(Exception):
    """A command that cannot be carried out: a line for each thing that is wrong."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class Parser(argparse.ArgumentParser):
    """Says what is wrong in a line, without the usage."""

    def error(self, message: str) -> NoReturn:
        """Raise the line as a CommandError."""
        raise CommandError(f"{message}; write --help for what there is")


class Request:
    """What is asked for.

    Args:
        args: the parsed words.

    Attributes:
        run_dir: the run.
        which: last or best, its network.
        protocol: the name of one; None: the run's own.
        episodes: how many; None: as the protocol says.
        seed: of environments and exploration; None: the run's.
        time_window: T; None: the run's.
        video: where to; None: no video.
        raster: whether the video shows the network too.
        time_windows: several T to compare, rising; empty: none.
        figure: of that comparison, a PNG.
        trust: whether code that the run's config names outside this package may be imported.

    Raises:
        CommandError: with all that is wrong.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.problems: list[str] = []
        self.run_dir: Path = args.run_dir
        self.which: str = args.which
        self.protocol: str | None = args.protocol
        self.raster: bool = args.raster
        self.trust: bool = args.trust
        self.video: Path | None = args.video
        self.episodes = self._whole("--episodes", args.episodes, 1, MOST_EPISODES)
        self.seed = self._whole("--seed", args.seed, 0)
        self.time_window = self._whole("--time-window", args.time_window, 1, MOST_STEPS)
        self.time_windows = self._list_of_windows(args.time_windows)
        self.figure: Path = args.out or self.run_dir / "time_windows.png"
        self._check_combinations(args)
        self._check_files(args)
        if self.problems:
            raise CommandError(*self.problems)

    def _whole(
        self, flag: str, text: str | None, least: int, most: int | None = None
    ) -> int | None:
        if text is None:
            return None
        rule = f"must be a whole number >= {least}{f' and <= {most}' if most else ''}"
        value = int(text) if text.isascii() and text.isdigit() else -1
        if value < least or (most is not None and value > most):
            self.problems.append(f"{flag}={text}: {rule}; write {flag} {max(least, 1)}")
        return value

    def _list_of_windows(self, text: str | None) -> list[int]:
        if text is None:
            return []
        words = text.split(",")
        if all(w.isascii() and w.isdigit() and 0 < int(w) <= MOST_STEPS for w in words):
            return sorted({int(word) for word in words})
        rule = f"must be whole numbers from 1 to {MOST_STEPS} with commas between"
        self.problems.append(f"--time-windows={text}: {rule}; write --time-windows 1,2,4,8,16")
        return []

    def _check_combinations(self, args: argparse.Namespace) -> None:
        if self.which not in WHICH:
            rule = f"must be {' or '.join(WHICH)}"
            self.problems.append(f"--which={self.which}: {rule}; write --which last")
        if self.raster and self.video is None:
            self.problems.append("--raster: needs a video; write --video out.mp4 --raster")
        if args.time_windows is None and args.out is not None:
            line = "is the figure of --time-windows; write --time-windows 1,2,4,8,16, or --video"
            self.problems.append(f"--out={args.out}: {line} {args.out.stem}.mp4")
        for flag, value in (("--video", args.video), ("--time-window", args.time_window)):
            if args.time_windows is not None and value is not None:
                line = "goes with one T, and --time-windows asks for several; leave out one of them"
                self.problems.append(f"{flag}={value}: {line}")

    def _check_files(self, args: argparse.Namespace) -> None:
        if self.video is not None:
            self._check_file("--video", self.video, SUFFIXES)
        if self.time_windows and (args.out is not None or self.run_dir.is_dir()):
            self._check_file("--out", self.figure, (".png",))

    def _check_file(self, flag: str, path: Path, suffixes: Sequence[str]) -> None:
        """A file of that kind can be put there; nothing is left behind."""
        fault = _file_fault(path)
        if path.suffix not in suffixes:
            instead = " or ".join(f"{flag} {path.stem or 'out'}{suffix}" for suffix in suffixes)
            rule = f"must end in {' or '.join(suffixes)}"
            self.problems.append(f"{flag}={path}: {rule}; write {instead}")
        elif fault:
            instead = f"write {flag} with a file where there is room"
            self.problems.append(f"{flag}={path}: cannot be written, {fault}; {instead}")


def _file_fault(path: Path) -> str | None:
    try:
        if path.is_dir():
            return "a directory is there"
        with tempfile.TemporaryFile(dir=path.parent, prefix=path.name) as probe:
            probe.write(bytes(1 << 16))
    except OSError as error:
        return f"{path.parent}: {error.strerror}"
    return None
