"""What `python -m sdqn_lab.play` does: play and print, make a video, compare several T."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Literal

import torch
from rich.console import Console
from rich.progress import Progress

from sdqn_lab.analysis.time_windows import Point, write_time_windows
from sdqn_lab.assembly import build
from sdqn_lab.checks.refused import Refused
from sdqn_lab.watching import summary
from sdqn_lab.watching.episodes import Episodes, last_start, play
from sdqn_lab.watching.player import check_game, load
from sdqn_lab.watching.request import Request, unwritable
from sdqn_lab.watching.video import game_frames, raster_frames, replay_env, write_video


class Session:
    """A trained agent at play, as a request says.

    Args:
        request: what is asked for.
        output: where results are printed.
        messages: where progress is shown, if it is a terminal.

    Raises:
        FileNotFoundError: there is no run, or no network of it.
        ConfigError: the run is damaged, or names code of others.
        Refused: the run does not fit what is asked for, or its game.
    """

    def __init__(self, request: Request, output: Console, messages: Console) -> None:
        self._request, self._output, self._messages = request, output, messages
        which: Literal["last", "best"] = "best" if request.which == "best" else "last"
        player = load(request.run_dir, which, request.trust)
        self._player = player.under(request.protocol) if request.protocol else player
        asked = {"--time-window": request.time_window, "--time-windows": request.time_windows}
        for flag, value in asked.items():
            if value is not None and not player.network.temporal:
                rule = f"neuron={player.cfg.choices.get('neuron')} is not spiking and has no T"
                raise Refused(flag, value, f"{rule}; leave it out")
        # Sums depend on the number of threads, and the run's own scores are to come out again.
        torch.set_num_threads(build.resolve_threads(player.cfg.threads))
        check_game(self._player)
        seed = player.cfg.seed if request.seed is None else request.seed
        self._start = last_start(request.run_dir, seed)
        if request.video is not None:
            with refused_as("--video", request.video):
                # Before anything is played: it may have no pictures.
                replay_env(self._player, self._start).close()
        self._title = f"{request.run_dir}, {request.which} network"

    def watch(self) -> None:
        """Play at one T, print how it went, and make a video if one is asked for.

        Raises:
            Refused: no video can be made, or written.
        """
        player, video = self._player, self._request.video
        played, point = self._play(self._request.time_window)
        self._output.print(summary.table_of_one(player, played, point, self._title))
        self._print(*summary.notes(point))
        if video is None:
            return
        # A fresh one: the games that were played have gone on.
        with refused_as("--video", video), closing(replay_env(player, self._start)) as env:
            if self._request.raster:
                frames = raster_frames(env, player, played)
            else:
                frames = game_frames(env, played)
            rate, total = env.decisions_per_second, len(played.first)
            with self._progress() as bar:
                shown = bar.track(frames, total=total, description=f"drawing {video.name}")
                count = write_video(video, shown, rate)
        pictures = f", {count:,} pictures" if count < total else ""
        self._print(f"video: {video} ({total:,} decisions, {rate:g} per second{pictures})")

    def compare(self) -> None:
        """Play at every T, print a table, and draw the figure.

        Raises:
            Refused: the figure cannot be written.
        """
        player, figure = self._player, self._request.figure
        found = [self._play(time_window) for time_window in self._request.time_windows or ()]
        points = [point for _, point in found]
        title = f"{self._title}: {summary.protocol_line(player)}"
        self._output.print(summary.table_of_several(found, title))
        self._print(*summary.notes(points[0]))
        caption = summary.caption(player, points[0], self._title)
        with refused_as("--out", figure):
            write_time_windows(points, figure, player.cfg.time_window, caption)
        files = ", ".join(str(figure.with_suffix(suffix)) for suffix in (".png", ".svg", ".csv"))
        self._print(f"figure and numbers: {files}")

    def _play(self, time_window: int | None) -> tuple[Episodes, Point]:
        player = self._player
        count = self._request.episodes or player.protocol.eval_episodes
        window = f" at T = {time_window or player.time_window}" if player.network.temporal else ""
        with closing(player.make_env(count)) as env, self._progress() as bar:
            task = bar.add_task(f"playing{window}", total=count)
            played = play(
                player,
                env,
                self._start,
                time_window=time_window,
                with_layers=self._request.raster,
                on_step=lambda finished: bar.update(task, completed=finished),
            )
        return played, summary.measure(player, played, self._start.seed)

    def _progress(self) -> Progress:
        hidden = not self._messages.is_terminal
        return Progress(console=self._messages, transient=True, disable=hidden)

    def _print(self, *lines: str) -> None:
        for line in lines:
            self._output.print(line, soft_wrap=True)


@contextmanager
def refused_as(flag: str, path: Path) -> Iterator[None]:
    """Whatever goes wrong with a file, as a mistake in the option that asks for it."""
    try:
        yield
    except OSError as error:
        raise unwritable(flag, path, error) from error
    except ValueError as error:
        raise Refused(flag, path, str(error)) from error
