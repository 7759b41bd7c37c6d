"""Videos: every decision once, at the game's speed, whole or not at all."""

import errno
import resource
import signal
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from sdqn_lab.assembly import build
from sdqn_lab.checks.refused import Refused
from sdqn_lab.watching import session, video
from sdqn_lab.watching.raster import GAME, enlarged
from tests.commands import refused
from tests.watching.runs import change, episodes, last_evaluation

pytestmark = pytest.mark.xdist_group("play")


def decoded(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def stamps(path: Path) -> list[float]:
    """The seconds at which the frames are shown."""
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(video=0) if p.pts is not None]
        return sorted(float(packet.pts * packet.time_base) for packet in packets)


def noise(count: int):
    rng = np.random.default_rng(0)
    return (rng.integers(256, size=(64, 65, 3), dtype=np.uint8) for _ in range(count))


@pytest.mark.parametrize(
    ("name", "rate", "suffix"),
    [
        *(("minatar", 10, ".mp4"), ("minatar", 10, ".gif")),
        pytest.param("atari", 15, ".mp4", marks=pytest.mark.slow),
        pytest.param("atari", 15, ".gif", marks=pytest.mark.slow),
    ],
)
def test_a_video_shows_each_decision_of_the_first_episode(name, rate, suffix, trained, command):
    path, run = Path(f"out{suffix}"), trained(name)
    assert command(run, "--video", path)[0] == 0
    player, start, played = episodes(run, len(last_evaluation(run)["eval/returns"]))
    pictures = list(video.game_frames(video.replay_env(player, start), played))
    frames = decoded(path)
    assert len(frames) == len(pictures) == played.lengths_steps[0]
    assert any((frame != frames[0]).any() for frame in frames)
    for frame, picture in zip(frames, pictures, strict=True):
        assert frame.shape == picture.shape
        if suffix == ".gif":
            assert np.array_equal(frame, picture)
        assert np.abs(frame.astype(int) - picture).mean() < 4
    # A gif keeps a frame's time in hundredths of a second.
    assert np.allclose(stamps(path), np.arange(len(frames)) / rate, atol=0.011)
    assert [path.name for path in Path.cwd().iterdir()] == [path.name]


@pytest.mark.parametrize("name", ["minatar", pytest.param("atari", marks=pytest.mark.slow)])
def test_a_raster_holds_the_game_beside_the_network(name, trained, command):
    path, run = Path("out.mp4"), trained(name)
    assert command(run, "--video", path, "--raster")[::2] == (0, "")
    player, start, played = episodes(run, len(last_evaluation(run)["eval/returns"]))
    frames = decoded(path)
    assert len(frames) == played.lengths_steps[0]
    assert {frame.shape for frame in frames} == {(720, 1280, 3)}
    left, top, right, bottom = GAME
    pictures = video.replayed(video.replay_env(player, start), played)
    for frame, picture in zip(frames, pictures, strict=True):
        game = enlarged(picture, right - left, bottom - top)
        shown = frame[top : top + game.shape[0], left : left + game.shape[1]]
        assert np.abs(shown.astype(int) - game).mean() < 4


@pytest.mark.parametrize("rate", [60 / 7, 1 / 3, 59.94])
def test_any_speed_can_be_written(rate):
    assert video.write_video(Path("out.mp4"), noise(4), rate) == 4
    assert np.allclose(stamps(Path("out.mp4")), np.arange(4) / rate, rtol=1e-3)


def test_a_gif_of_a_game_faster_than_gifs_leaves_frames_out_and_keeps_the_speed():
    frames = [np.full((64, 64, 3), 30 * shade, np.uint8) for shade in range(7)]
    # MuJoCo's Hopper decides 125 times a second.
    assert video.write_video(Path("out.gif"), frames, 125.0) == 3
    assert np.allclose(stamps(Path("out.gif")), [0, 3 / 125, 6 / 125], atol=0.011)
    for frame, picture in zip(decoded(Path("out.gif")), frames[::3], strict=True):
        assert np.array_equal(frame, picture)


class Unrepeatable:
    """A game that goes its own way; else like the one that it wraps."""

    def __init__(self, env):
        self._env = env

    def __getattr__(self, name):
        return getattr(self._env, name)

    def step(self, actions):
        step = self._env.step(actions)
        return step._replace(rewards=step.rewards + 1)


def test_a_game_that_does_not_repeat_itself_is_not_shown_as_if_it_did(trained):
    player, start, played = episodes(trained("minatar"), 2)
    env = Unrepeatable(video.replay_env(player, start))
    with pytest.raises(Refused) as refusal:
        list(video.game_frames(env, played))
    assert refusal.value.key == "game"


class Pictureless:
    """A vector environment as trainers need it, and no more."""

    def __init__(self, env):
        self.reset, self.step, self.close = env.reset, env.step, env.close
        self.num_actions, self.num_envs = env.num_actions, env.num_envs


def test_an_environment_without_pictures_plays_and_is_named(trained, command, monkeypatch):
    made = build.build_env
    monkeypatch.setattr(build, "build_env", lambda *given: Pictureless(made(*given)))
    assert command(trained("minatar"))[0] == 0
    answer = command(trained("minatar"), "--video", "out.mp4")
    refused(answer, "error: --video=out.mp4: Pictureless: ")


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_a_video_that_cannot_be_finished_leaves_what_was_there(suffix):
    def interrupted():
        yield from noise(20)
        raise KeyboardInterrupt

    path = Path(f"out{suffix}")
    path.write_text("older")
    with pytest.raises(KeyboardInterrupt):
        video.write_video(path, interrupted(), 10.0)
    assert [p.name for p in Path.cwd().iterdir()] == [path.name]
    assert path.read_text() == "older"


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_a_full_disk_is_reported_and_leaves_nothing(suffix):
    path = Path(f"out{suffix}")
    assert video.write_video(path, noise(30), 10.0) == 30
    size = path.stat().st_size
    path.unlink()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, before[1]))
    try:
        with pytest.raises(OSError) as failure:
            video.write_video(path, noise(30), 10.0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert failure.value.errno == errno.EFBIG
    assert not list(Path.cwd().iterdir())


def test_a_video_that_does_not_fit_is_one_line_after_the_table(trained, command, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(session, "write_video", full)
    answer = command(trained("minatar"), "--video", "out.mp4")
    assert answer.code == 2
    assert "mean return" in answer.out
    (line,) = answer.lines
    assert line.startswith("error: --video=out.mp4: ")
    assert "No space left on device" in line


def test_a_video_needs_frames_and_a_suffix_that_it_knows():
    for path, frames, key in (("out.mp4", [], "frames"), ("out.avi", noise(1), "path")):
        with pytest.raises(Refused) as refusal:
            video.write_video(Path(path), frames, 10.0)
        assert refusal.value.key == key
    assert not list(Path.cwd().iterdir())


def test_a_command_that_is_ended_leaves_no_half_video(copied):
    run = copied("minatar")
    change(run, "episode_cap_frames: .*", "episode_cap_frames: 10000")
    # So slow that it is met at its work.
    slow = (
        "import sys, time; from sdqn_lab import play; from sdqn_lab.watching.raster import Raster\n"
        "drawn = Raster.draw\n"
        "Raster.draw = lambda *a: (print('drawing', flush=True), time.sleep(1), drawn(*a))[2]\n"
        "play.exit_on_sigterm()\n"
        "sys.exit(play.main(sys.argv[1:]))"
    )
    asked = ["--video", "out.mp4", "--raster", "--episodes", "1"]
    arguments = [sys.executable, "-c", slow, str(run), *asked]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    try:
        while "drawing" not in process.stdout.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 143
    finally:
        process.kill()
    assert not list(Path.cwd().iterdir())
