"""``python -m sdqn_lab.play RUN_DIR``: watch a trained agent; score it, film it, vary its T."""

import argparse
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from sdqn_lab.launching.table import out
from sdqn_lab.runs.stopping import INTERRUPTED, PREEMPTED_EXIT
from sdqn_lab.watching.request import CommandError, Parser, Request

if TYPE_CHECKING:  # torch takes seconds to load, and a mistyped option should not
    from sdqn_lab.envs.base import Watchable
    from sdqn_lab.training.evaluation import Start
    from sdqn_lab.watching.episodes import Episodes
    from sdqn_lab.watching.measured import Measured
    from sdqn_lab.watching.player import Player

T = TypeVar("T")
USAGE_ERROR = 2
console = Console(stderr=True, emoji=False, markup=False, highlight=False)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    try:
        request = Request(_parser().parse_args(argv))
        player = _loaded(request)
        if request.time_windows:
            _compare(player, request)
        else:
            _watch(player, request)
    except CommandError as error:
        for problem in error.problems:
            console.print(f"error: {problem}", soft_wrap=True)
        return USAGE_ERROR
    except KeyboardInterrupt:
        console.print("interrupted")
        return INTERRUPTED
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m sdqn_lab.play", description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("run_dir", type=Path, metavar="RUN_DIR", help="of a run that was evaluated at least once")
    add("--episodes", metavar="E", help="default: as many as the protocol says")
    add("--which", default="last", help="last (default) or best: the network to play with")
    add("--protocol", metavar="NAME", help="one of conf/protocol; default: the run's own")
    add("--seed", metavar="N", help="of environments and exploration; default: the run's own")
    add("--time-window", metavar="T", help="steps per decision; default: the run's own")
    add("--video", type=Path, metavar="FILE", help="the first episode as .mp4 or .gif")
    add("--raster", action="store_true", help="with spikes, firing rates and Q-values beside it")
    add("--time-windows", metavar="T,T,...", help="score, firing and energy against T, a figure")
    add("--out", type=Path, metavar="FILE.png", help="default: time_windows.png in RUN_DIR")
    add("--trust", action="store_true", help="import what its config names outside sdqn_lab")
    return parser


def _loaded(request: Request) -> "Player":
    """The agent, under the protocol that is asked for, and sure to fit its game."""
    import torch

    from sdqn_lab import build
    from sdqn_lab.checks.refused import ConfigError
    from sdqn_lab.watching.player import load

    try:
        which: Literal["last", "best"] = "best" if request.which == "best" else "last"
        player = load(request.run_dir, which, request.trust)
        if request.protocol is not None:
            player = player.under(request.protocol)
    except FileNotFoundError as error:
        raise CommandError(str(error)) from error
    except ConfigError as error:
        raise CommandError(*map(str, error.problems)) from error
    _check_time(player, request)
    torch.set_num_threads(build.resolve_threads(player.cfg.threads))  # sums depend on it
    _check_game(player)
    return player


def _check_time(player: "Player", request: Request) -> None:
    if player.network.temporal:
        return
    asked = {"--time-window": request.time_window, "--time-windows": request.time_windows or None}
    neuron = player.cfg.choices.get("neuron")
    if flags := [flag for flag, value in asked.items() if value is not None]:
        raise CommandError(f"{flags[0]}: neuron={neuron} knows no time; leave {flags[0]} out")


def _check_game(player: "Player") -> None:
    """The environment can be made, honours the protocol and suits the network."""
    name = player.cfg.choices.get("protocol")
    try:
        with closing(player.make_env(1)) as env:
            actions = env.num_actions
            if actions == player.num_actions:
                player.policy.outputs(env.reset(seed=0))
    except Exception as error:  # a user's environment may fail in any way
        line = " ".join(str(error).split()) or type(error).__name__
        line = line.replace(": write protocol=", "; write --protocol ")
        raise CommandError(f"protocol={name}, env.id={player.cfg.env.id}: {line}") from error
    if actions != player.num_actions:
        raise CommandError(
            f"protocol={name}: offers {actions} actions (protocol.full_action_space="
            f"{str(player.protocol.full_action_space).lower()}), and the network was trained with "
            f"{player.num_actions}; write a --protocol with the other action set, or none"
        )


def _watch(player: "Player", request: Request) -> None:
    from sdqn_lab.watching import film, tables

    start, reel = _start(player, request), None
    if request.video is not None:
        with _told(request.video):
            reel = film.opened(player, start)  # before anything is played: it may have no pictures
    played, found = _played(player, request, start, request.time_window)
    out().print(tables.one(player, found, _title(request)))
    for line in tables.notes(found):
        out().print(line, soft_wrap=True)
    if reel is not None and request.video is not None:
        with closing(reel), _told(request.video):
            _film(player, request, played, reel)


def _film(player: "Player", request: Request, played: "Episodes", reel: "Watchable") -> None:
    from sdqn_lab.watching import film, video

    assert request.video is not None
    if request.raster:
        pictures = film.with_raster(reel, player, played)
    else:
        pictures = film.plain(reel, played)
    shown = _with_bar(pictures, len(played.first), f"filming {request.video.name}")
    rate = reel.decisions_per_second
    count = video.write_video(request.video, shown, rate)
    line = f"video: {request.video} ({count:,} decisions, {rate:g} a second)"
    out().print(line, soft_wrap=True)


@contextmanager
def _told(video: Path) -> Iterator[None]:
    """What can go wrong with a video, in a line."""
    from sdqn_lab.watching.film import FilmError

    try:
        yield
    except FilmError as error:
        raise CommandError(f"--video={video}: {error}") from error
    except OSError as error:
        reason = error.strerror or str(error)
        line = "write --video with a file where there is room"
        raise CommandError(f"--video={video}: cannot be written, {reason}; {line}") from error


def _compare(player: "Player", request: Request) -> None:
    """Play at every T, and draw the figure."""
    from sdqn_lab.analysis.time_windows import Point, write_time_windows
    from sdqn_lab.watching import tables

    start, found = _start(player, request), []
    for time_window in request.time_windows:
        found.append(_played(player, request, start, time_window)[1])
    out().print(tables.several(found, f"{_title(request)}: {tables.protocol_line(player)}"))
    for line in tables.notes(found[0]):
        out().print(line, soft_wrap=True)
    points = [
        Point(
            each.time_window,
            len(each.returns),
            each.score,
            each.firing_rates,
            each.energy_nj,
            each.energy_every_step_nj,
        )
        for each in found
    ]
    try:
        caption = tables.caption(player, found[0], _title(request))
        write_time_windows(points, request.figure, player.cfg.time_window, caption)
    except OSError as error:
        line = f"cannot be written, {error.strerror}; write --out with a file where there is room"
        raise CommandError(f"--out={request.figure}: {line}") from error
    names = ", ".join(
        str(request.figure.with_suffix(suffix)) for suffix in (".png", ".svg", ".csv")
    )
    out().print(f"figure and numbers: {names}", soft_wrap=True)


def _played(
    player: "Player", request: Request, start: "Start", time_window: int | None
) -> "tuple[Episodes, Measured]":
    from sdqn_lab.watching.episodes import play
    from sdqn_lab.watching.measured import measure

    count = request.episodes or player.protocol.eval_episodes
    window = time_window or player.time_window
    what = f"playing at T = {window}" if player.network.temporal else "playing"
    with closing(player.make_env(count)) as env, _bar(what, count) as told:
        tapped = request.raster
        played = play(player, env, start, time_window=time_window, tapped=tapped, reported=told)
    return played, measure(player, played, start.seed)


def _start(player: "Player", request: Request) -> "Start":
    """Where the run's last evaluation began, but for the seed that is asked for."""
    from sdqn_lab.analysis.records import read_records
    from sdqn_lab.training.evaluation import Start

    evaluations = read_records(request.run_dir / "metrics.jsonl").evaluations
    index = int(evaluations[-1].get("iteration", 1)) - 1 if evaluations else 0
    return Start(player.cfg.seed if request.seed is None else request.seed, index)


def _title(request: Request) -> str:
    return f"{request.run_dir}, {request.which} network"


def _with_bar(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    with _bar(what, total) as told:
        for number, item in enumerate(items, start=1):
            yield item
            told(number)


@contextmanager
def _bar(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, gone when the work is done; nothing elsewhere."""
    columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}")
    hidden = not console.is_terminal
    with Progress(
        *columns, TimeRemainingColumn(), console=console, transient=True, disable=hidden
    ) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)


def end_when_told() -> None:
    """Let SIGTERM end this process as an exception does: what is half written is taken away."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(PREEMPTED_EXIT))


if __name__ == "__main__":
    end_when_told()
    sys.exit(main())
