"""Watching a trained agent: scores, videos, rasters and several T, all on real games."""

import csv
import json
import re
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from rich.console import Console

import sdqn_lab
from sdqn_lab import config, play
from sdqn_lab.analysis import raster
from sdqn_lab.networks.blocks import Block
from sdqn_lab.runs.directory import RunDirectory
from sdqn_lab.runs.metrics import read_metrics
from sdqn_lab.training.cell import run_cell
from sdqn_lab.watching import film, video
from sdqn_lab.watching.activity import MOST_UNITS, ActivityTap, spread
from sdqn_lab.watching.episodes import Sample, Start
from sdqn_lab.watching.episodes import play as play_episodes

pytestmark = pytest.mark.xdist_group("play")  # the trained runs are made once a process

COMMON = ["budget=smoke", "tracker=none", "threads=1", "device=cpu"]
MINATAR = ["env=minatar_breakout", "network.channels=[8]", "network.hidden=96", "time_window=4"]
ALONE = ["protocol.eval_episodes=1"]
AWAKE = ["time_window=2", "network.normalize_hidden=true", "protocol.episode_cap_frames=160"]
RUNS = {
    "minatar": [*MINATAR, "experiment=pl_sdqn", "network.normalize_hidden=true"],
    "poisson": [*MINATAR, "encoder=poisson", *ALONE, "protocol.epsilon_eval=0.5"],
    "relu": ["env=minatar_breakout", "experiment=dqn", "network.channels=[4]", "network.hidden=16"],
    "atari": ["env=breakout", "network.channels=[4,4,4]", "network.hidden=16", *AWAKE],
    "cartpole": ["env=cartpole", "network.hidden=8", "time_window=2"],
}


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A run directory by its name in RUNS, trained when it is asked for first."""
    made = {}

    def directory(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name) / name
            cfg = config.compose([*RUNS[name], *COMMON])
            assert run_cell(cfg, RunDirectory(made[name]), Console(quiet=True)) == 0
        return made[name]

    return directory


@pytest.fixture
def copied(trained, tmp_path_factory):
    """The same, to be damaged."""

    def directory(name: str) -> Path:
        copy = tmp_path_factory.mktemp("copy") / name
        shutil.copytree(trained(name), copy)
        return copy

    return directory


@pytest.fixture
def command(capsys):
    """Run a command in this process: its exit code, what it printed, what it said on stderr."""

    def answer(*words: object) -> tuple[int, str, list[str]]:
        capsys.readouterr()
        code = play.main([str(word) for word in words])
        said = capsys.readouterr()
        return code, said.out, [line for line in said.err.splitlines() if line.strip()]

    return answer


def last_evaluation(run: Path) -> dict:
    return [r for r in read_metrics(run / "metrics.jsonl") if "eval/returns" in r][-1]


def row(table: str, name: str) -> str:
    (line,) = [line for line in table.splitlines() if line.startswith(f"│ {name} ")]
    return line.split("│")[2].strip()


def decoded(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def episodes(run: Path, copies: int = 1, **settings):
    player = sdqn_lab.load(run)
    evaluation = Start(player.cfg.seed, last_evaluation(run)["iteration"] - 1)
    env = player.make_env(copies)
    return player, evaluation, play_episodes(player, env, evaluation, **settings)


@pytest.mark.parametrize("name", ["minatar", "poisson", "relu", "atari", "cartpole"])
def test_the_episodes_are_those_of_the_runs_last_evaluation(name, trained):
    recorded = last_evaluation(trained(name))
    _, _, played = episodes(trained(name), len(recorded["eval/returns"]))
    assert played.returns == recorded["eval/returns"]
    assert np.mean(played.lengths_steps) == recorded["eval/length_steps_mean"]


def test_the_table_says_what_was_played_and_how_it_went(trained, command):
    code, table, said = command(trained("minatar"), "--episodes", 5)
    assert (code, said) == (0, [])
    assert row(table, "game") == "minatar_breakout"
    assert row(table, "arm") == "pl_sdqn, seed 0"
    protocol = row(table, "protocol")
    assert protocol.startswith("minatar: sticky actions 0.1, no-ops up to 0, cap ")
    assert protocol.endswith("all actions, ramping, epsilon 0.05")
    assert row(table, "T") == "4"
    assert row(table, "episodes").startswith("5, ")
    _, _, played = episodes(trained("minatar"), 5)
    returns = np.array(played.returns)
    assert row(table, "mean return").startswith(f"{returns.mean():.2f} [")
    low, high = map(float, re.findall(r"\[(.*), (.*)\]", row(table, "mean return"))[0])
    assert returns.min() <= low <= returns.mean() <= high <= returns.max()
    extremes = f"{np.median(returns):.2f}, {returns.min():.2f}, {returns.max():.2f}"
    assert row(table, "median, min, max") == extremes
    assert row(table, "mean length") == f"{np.mean(played.lengths_steps):.1f} decisions"
    rates = "  ".join(f"{name} {rate:.3f}" for name, rate in played.firing_rates.items())
    assert row(table, "firing rate") == rates
    assert re.match(r"[\d.]+ nJ \([\d.]+ nJ if the first layer", row(table, "energy per decision"))
    assert "over episodes of this one network; it says nothing of other seeds" in table
    assert "Horowitz 2014" in table


def test_one_episode_has_no_interval_and_the_table_says_so(trained, command):
    _, table, _ = command(trained("minatar"), "--episodes", 1)
    assert re.fullmatch(r"[\d.]+", row(table, "mean return"))
    assert "One episode has no interval" in table
    assert "spread is over" not in table


def test_a_network_without_time_has_active_units_and_no_T(trained, command):
    _, table, _ = command(trained("relu"))
    assert row(table, "T") == "none: a network without time"
    assert row(table, "active units").startswith("conv1 0.")
    assert "if the first layer" not in row(table, "energy per decision")


def test_equal_seeds_play_equal_episodes_and_others_play_others(trained, command):
    words = trained("minatar"), "--episodes", 8
    _, table, _ = command(*words, "--seed", 5)
    assert command(*words, "--seed", 5)[1] == table
    assert command(*words, "--seed", 6)[1] != table
    assert command(*words)[1] == command(*words, "--seed", 0)[1]


def test_another_protocol_replaces_the_runs_values(trained, command):
    _, table, _ = command(trained("atari"), "--protocol", "nature", "--episodes", 1)
    assert row(table, "protocol") == (
        "nature: sticky actions 0, no-ops up to 30, cap 18,000 frames, the game's own actions, "
        "epsilon 0.05"
    )
    player = sdqn_lab.load(trained("atari"))
    assert player.under("nature").protocol.eval_episodes == 30
    assert player.protocol.eval_episodes == last_evaluation_count(trained("atari"))
    assert player.cfg.choices.protocol == "braincog"


def last_evaluation_count(run: Path) -> int:
    return len(last_evaluation(run)["eval/returns"])


def test_the_best_network_can_be_chosen(copied, command):
    run = copied("minatar")
    (run / "network_last.safetensors").unlink()
    code, table, _ = command(run, "--which", "best")
    assert code == 0
    assert "best network" in table


def test_time_can_be_given_to_a_decision_or_taken_from_it(trained, command):
    _, once, _ = command(trained("minatar"), "--time-window", 1)
    _, often, _ = command(trained("minatar"), "--time-window", 9)
    assert (row(once, "T"), row(often, "T")) == ("1", "9")
    assert row(once, "firing rate") != row(often, "firing rate")
    assert row(once, "energy per decision") != row(often, "energy per decision")


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
@pytest.mark.parametrize(("name", "rate"), [("minatar", 10), ("atari", 15)])
def test_a_video_shows_each_decision_of_the_first_episode(name, rate, suffix, trained, command):
    path = Path(f"out{suffix}")
    assert command(trained(name), "--video", path)[0] == 0
    player, evaluation, played = episodes(trained(name), last_evaluation_count(trained(name)))
    pictures = list(film.plain(film.opened(player, evaluation), played))
    frames = decoded(path)
    assert len(frames) == len(pictures) == played.lengths_steps[0]
    assert any((frame != frames[0]).any() for frame in frames)
    for frame, picture in zip(frames, pictures, strict=True):
        assert frame.shape == picture.shape
        if suffix == ".gif":
            assert np.array_equal(frame, picture)
        assert np.abs(frame.astype(int) - picture).mean() < 4
    with av.open(str(path)) as container:
        # A frame's time is kept in hundredths of a second by a gif.
        stamps = [
            float(packet.pts * packet.time_base)
            for packet in container.demux(video=0)
            if packet.pts is not None
        ]
    assert np.allclose(sorted(stamps), np.arange(len(frames)) / rate, atol=0.011)
    assert [path.name for path in Path.cwd().iterdir()] == [path.name]


@pytest.mark.parametrize("name", ["minatar", "atari", "relu"])
def test_a_raster_holds_the_game_beside_the_network(name, trained, command):
    path = Path("out.mp4")
    code, table, said = command(trained(name), "--video", path, "--raster")
    assert (code, said) == (0, [])
    assert "video: out.mp4" in table
    player, evaluation, played = episodes(trained(name), last_evaluation_count(trained(name)))
    frames = decoded(path)
    assert len(frames) == played.lengths_steps[0]
    assert {frame.shape for frame in frames} == {(720, 1280, 3)}
    pictures = film.replayed(film.opened(player, evaluation), played.first)
    left, top, width, height = raster.GAME
    for frame, picture in zip(frames, pictures, strict=True):
        game = raster.enlarged(picture, width, height)
        shown = frame[top : top + game.shape[0], left : left + game.shape[1]]
        assert np.abs(shown.astype(int) - game).mean() < 4


@pytest.mark.parametrize("name", ["minatar", "atari", "relu"])
def test_the_spikes_that_are_drawn_are_the_networks(name, trained):
    player, evaluation, played = episodes(trained(name), 3, tapped=True)
    network = player.network
    env = player.make_env(3)
    observation = env.reset(evaluation.env_seed)[:1]
    steps = played.time_window
    x = torch.as_tensor(observation).float() / network.observation_scale
    activity = network.encoder(x, steps, None)
    first = film.moment(np.zeros((1, 1, 3), np.uint8), played.first[0], 1)
    blocks = [block for block in network.torso.modules() if isinstance(block, Block)]
    assert len(first.activity) == len(first.rates) == len(blocks)
    with torch.no_grad():
        for block, shown, rate in zip(blocks, first.activity, first.rates, strict=True):
            if block is network.torso.hidden:
                activity = activity.flatten(2)
            activity = block(activity, steps)
            units = activity[:, 0].flatten(1)
            assert shown.shape == (steps, min(MOST_UNITS, units.shape[1]))
            assert np.allclose(shown, units[:, spread(units.shape[1])].numpy(), atol=1e-6)
            assert rate == pytest.approx((units > 0).float().mean().item(), abs=1e-6)
        values = network.readout(activity)[0].numpy()
    assert np.allclose(first.values, values, atol=1e-5)
    if network.temporal:
        assert {*np.unique(np.concatenate([shown.ravel() for shown in first.activity]))} == {0, 1}


def test_tapping_changes_no_value(trained):
    player = sdqn_lab.load(trained("minatar"))
    observations = player.make_env(4).reset(3)
    before = player.q_values(observations)
    with ActivityTap(player.network) as tap:
        assert np.array_equal(player.q_values(observations), before)
    assert list(tap.layers()) == ["conv1", "hidden"]
    tap.layers().clear()
    player.q_values(observations[::-1].copy(), 7)
    assert tap.layers()["conv1"].shown.shape[0] == 4


def a_scene(**changes) -> raster.Scene:
    faces = [raster.Face("conv1", 64, 640, 1.0), raster.Face("hidden", 64, 64, 1.0)]
    facts = {
        "title": "pong",
        "subtitle": "pl_sdqn",
        "layers": faces,
        "actions": ("no-op", "up", "down"),
        "decisions": 9,
        "time_window": 8,
        "spiking": True,
        "top_rate": 0.5,
        "values": (-1.0, 3.0),
        "values_name": "Q-values",
    }
    return raster.Scene(**{**facts, **changes})


def a_moment(seed: int) -> raster.Moment:
    rng = np.random.default_rng(seed)
    spikes = [(rng.random((8, 64)) < 0.2).astype(np.float32) for _ in range(2)]
    picture = rng.integers(256, size=(210, 160, 3), dtype=np.uint8)
    rates = [float(layer.mean()) for layer in spikes]
    values = rng.uniform(-1, 3, 3).astype(np.float32)
    return raster.Moment(picture, spikes, rates, values, seed % 3, bool(seed % 2), seed + 1, seed)


def test_each_spike_is_drawn_at_its_step_and_its_unit():
    drawing = raster.Raster(a_scene())
    moment = a_moment(4)
    picture = drawing.draw(moment)
    places = raster.layer_boxes(a_scene())
    assert len(places) == 2
    for box, color, spikes in zip(places, raster.LAYERS, moment.activity, strict=False):
        step_width, unit_height = box.width // 8, box.height // 64
        bright = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)])
        for step in range(8):
            for unit in range(64):
                x = box.left + step * step_width + step_width // 2
                y = box.top + unit * unit_height + unit_height // 2
                assert (picture[y, x] == bright).all() == bool(spikes[step, unit])


def test_nothing_of_a_moment_stays_in_the_next_picture():
    drawing = raster.Raster(a_scene())
    first = drawing.draw(a_moment(0))
    kept = first.copy()
    assert (drawing.draw(a_moment(1)) != first).any()
    assert np.array_equal(first, kept)
    assert np.array_equal(drawing.draw(a_moment(0)), kept)


@pytest.mark.parametrize(
    "changes",
    [
        {"actions": tuple(map(str, range(18)))},
        {"values": (0.0, 0.0), "top_rate": 0.0},
        {"values": (-3.0, -1.0)},
        {"time_window": 1, "spiking": False},
        {"time_window": 1024},
    ],
)
def test_a_raster_copes_with_every_scene(changes):
    scene = a_scene(**changes)
    steps, actions = scene.time_window, len(scene.actions)
    activity = [np.ones((steps, 64), np.float32)] * 2
    moment = a_moment(2)._replace(activity=activity, values=np.zeros(actions, np.float32))
    assert raster.Raster(scene).draw(moment).shape == (720, 1280, 3)


def test_what_has_diverged_is_drawn_too():
    moment = a_moment(2)._replace(values=np.array([np.nan, np.inf, -np.inf], np.float32))
    assert raster.Raster(a_scene()).draw(moment).any()


@pytest.mark.parametrize("size", [(10, 10), (210, 160), (400, 600), (1000, 3), (1, 5000)])
def test_a_picture_of_any_size_is_made_to_fit(size):
    picture = np.full((*size, 3), 7, np.uint8)
    fitting = raster.enlarged(picture, 480, 630)
    assert fitting.shape[0] <= 630
    assert fitting.shape[1] <= 480
    assert fitting.size
    assert fitting.shape[0] > 315 or fitting.shape[1] > 240


def test_several_T_make_a_figure_its_numbers_and_a_table(trained, command):
    run = trained("minatar")
    words = "--time-windows", "4,1,2", "--episodes", 4, "--out", "fig.png"
    code, table, said = command(run, *words)
    assert (code, said) == (0, [])
    assert sorted(p.name for p in Path.cwd().iterdir()) == ["fig.csv", "fig.png", "fig.svg"]
    rows = list(csv.DictReader(Path("fig.csv").read_text().splitlines()))
    assert [r["time_window"] for r in rows] == ["1", "2", "4"]
    for number in rows:
        player, _, played = episodes(run, 4, time_window=int(number["time_window"]))
        assert float(number["return_mean"]) == np.mean(played.returns)
        assert (
            float(number["return_low"]) <= np.mean(played.returns) <= float(number["return_high"])
        )
        for layer, rate in played.firing_rates.items():
            assert float(number[f"firing_rate/{layer}"]) == pytest.approx(rate)
        assert f"│ {number['time_window']} " in table
    energies = [float(r["energy_nj"]) for r in rows]
    assert energies == sorted(energies)
    drawing = Path("fig.svg").read_text()
    said_below = (player.arm, "protocol minatar: sticky actions 0.1", "4 episodes", "Horowitz 2014")
    assert all(words in drawing for words in said_below)
    with av.open("fig.png") as image:
        assert next(image.decode(video=0)).width > 1000


def test_the_figure_lies_in_the_run_unless_said_otherwise(copied, command):
    run = copied("minatar")
    assert command(run, "--time-windows", "1", "--episodes", 1)[0] == 0
    assert all((run / f"time_windows.{suffix}").exists() for suffix in ("png", "svg", "csv"))


WRONG_WORDS = [
    ("", "the following arguments are required: RUN_DIR; write --help"),
    ("nowhere", "nowhere/config.yaml: not there | holds no run; write the directory of a run"),
    ("RUN --episodes 0", "--episodes=0: must be a whole number >= 1 | write --episodes 1"),
    ("RUN --episodes x", "--episodes=x: must be a whole number >= 1"),
    ("RUN --episodes 1e9", "--episodes=1e9: must be a whole number >= 1 and <= 1000"),
    ("RUN --episodes 1001", "--episodes=1001: must be a whole number >= 1 and <= 1000"),
    ("RUN --episodes=-1", "--episodes=-1: must be a whole number >= 1"),
    ("RUN --seed=-1", "--seed=-1: must be a whole number >= 0; write --seed 1"),
    ("RUN --seed 1.5", "--seed=1.5: must be a whole number >= 0"),
    ("RUN --which first", "--which=first: must be last or best; write --which last"),
    ("RUN --protocol minatr", "protocol=minatr: no such protocol; write one of braincog, machado"),
    ("RUN --protocol ../algo/dqn", "protocol=../algo/dqn: no such protocol"),
    ("RUN --protocol nature", "protocol.noop_max must be 0 for MinAtar | --protocol minatar"),
    ("RUN --protocol plain", "protocol=plain: offers 3 actions | trained with 6; write"),
    ("RUN --time-window 0", "--time-window=0: must be a whole number >= 1 and <= 1024; write"),
    ("RUN --time-window 99999999999", "--time-window=99999999999: must be a whole number >= 1 and"),
    ("RUN --time-window two", "--time-window=two: must be a whole number >= 1"),
    ("RELU --time-window 4", "--time-window: neuron=relu knows no time; leave --time-window out"),
    ("RELU --time-windows 1,2", "--time-windows: neuron=relu knows no time; leave"),
    ("RUN --video out.avi", "--video=out.avi: must end in .mp4 or .gif; write --video out.mp4 or"),
    ("RUN --video out", "--video=out: must end in .mp4 or .gif"),
    ("RUN --video no/out.mp4", "--video=no/out.mp4: cannot be written, no: No such file | write"),
    ("RUN --video RUN", "must end in .mp4 or .gif"),
    ("RUN --raster", "--raster: needs a video; write --video out.mp4 --raster"),
    ("RUN --out a.png", "--out=a.png: is the figure of --time-windows; write --time-windows"),
    (
        "RUN --time-windows 1,x",
        "--time-windows=1,x: must be whole numbers from 1 to 1024 with commas | write",
    ),
    ("RUN --time-windows 0", "--time-windows=0: must be whole numbers from 1"),
    ("RUN --time-windows=", "--time-windows=: must be whole numbers from 1"),
    ("RUN --time-windows 1 --out a.pdf", "--out=a.pdf: must end in .png; write --out a.png"),
    ("RUN --time-windows 1 --out no/a.png", "--out=no/a.png: cannot be written"),
    ("RUN --time-windows 1 --video a.mp4", "--video=a.mp4: goes with one T | leave out one"),
    ("RUN --time-windows 1 --time-window 2", "--time-window=2: goes with one T | leave out one"),
    ("RUN --bogus", "unrecognized arguments: --bogus; write --help"),
    ("RUN --vid out.mp4", "unrecognized arguments: --vid out.mp4; write --help"),
    ("POLE --video out.mp4", "--video=out.mp4: env.id must be | draws itself, got CartPole-v1"),
]


@pytest.mark.parametrize(("words", "problem"), WRONG_WORDS, ids=[w for w, _ in WRONG_WORDS])
def test_a_wrong_command_is_answered_in_a_line(words, problem, trained, command, monkeypatch):
    monkeypatch.setitem(sys.modules, "pygame", None)
    runs = {"RUN": "minatar", "RELU": "relu", "POLE": "cartpole"}
    given = [trained(runs[w]) if w in runs else w for w in words.split()]
    code, table, said = command(*given)
    assert code == 2
    assert table == ""
    assert len(said) == 1, said
    assert said[0].startswith("error: ")
    assert all(part in said[0] for part in problem.split(" | ")), said[0]
    assert not list(Path.cwd().iterdir())


def test_several_mistakes_are_answered_together(trained, command):
    words = "--episodes", 0, "--which", "first", "--video", "out.avi"
    code, _, said = command(trained("minatar"), *words)
    assert code == 2
    assert [line.split("=")[0] for line in said] == [
        *("error: --episodes", "error: --which", "error: --video"),
    ]


def no_network(run: Path) -> None:
    (run / "network_last.safetensors").unlink()


def torn_network(run: Path) -> None:
    file = run / "network_last.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def text_network(run: Path) -> None:
    (run / "network_last.safetensors").write_text("weights")


def other_network(run: Path) -> None:
    change(run, r"hidden: 96", "hidden: 80")


def torn_config(run: Path) -> None:
    (run / "config.yaml").write_text("neuron: [")


def list_config(run: Path) -> None:
    (run / "config.yaml").write_text("- 1")


def poor_config(run: Path) -> None:
    change(run, r"(?m)^precision: .*\n", "")


def wrong_type(run: Path) -> None:
    change(run, r"(?m)^time_window: 4", "time_window: many")


def foreign_neuron(run: Path) -> None:
    change(run, r"sdqn_lab\.spiking\.neuron\.LIF", "subprocess.Popen")


def foreign_env(run: Path) -> None:
    change(run, r"sdqn_lab\.envs\.minatar\.MinAtar", "subprocess.Popen")


def other_game(run: Path) -> None:
    change(run, r"(?m)^  id: breakout", "  id: seaquest")


def no_game(run: Path) -> None:
    change(run, r"(?m)^  id: breakout", "  id: chess")


def change(run: Path, old: str, new: str) -> None:
    file = run / "config.yaml"
    text, count = re.subn(old, new, file.read_text())
    assert count
    file.write_text(text)


DAMAGES = [
    (no_network, "network_last.safetensors: not there | saves one at its first evaluation"),
    (torn_network, "network_last.safetensors: not the network of this run's config | put the"),
    (text_network, "network_last.safetensors: not the network of this run's config"),
    (other_network, "network_last.safetensors: not the network of this run's config"),
    (torn_config, "config.yaml: not the config of a run | put the file back"),
    (list_config, "config.yaml: not the config of a run"),
    (poor_config, "config.yaml: not the config of a run (no value for precision)"),
    (wrong_type, "config.yaml: not the config of a run | many"),
    (foreign_neuron, "neuron._target_=subprocess.Popen: | outside sdqn_lab | write --trust"),
    (foreign_env, "env._target_=subprocess.Popen: | outside sdqn_lab | write --trust"),
    (other_game, "protocol=minatar, env.id=seaquest: "),
    (no_game, "env.id=chess: game must be one of asterix"),
]


@pytest.mark.parametrize(("damage", "problem"), DAMAGES, ids=lambda d: getattr(d, "__name__", ""))
def test_a_damaged_run_is_named_and_nothing_in_it_is_executed(
    damage, problem, copied, command, monkeypatch
):
    def executed(*words, **more):
        raise AssertionError(f"executed {words}")

    run = copied("minatar")
    damage(run)
    monkeypatch.setattr(subprocess.Popen, "__init__", executed)
    code, table, said = command(run)
    assert (code, table) == (2, "")
    assert len(said) == 1, said
    assert said[0].startswith("error: ")
    assert all(part in said[0] for part in problem.split(" | ")), said[0]


def test_a_run_whose_metrics_are_lost_can_still_be_watched(copied, command):
    run = copied("minatar")
    (run / "metrics.jsonl").write_text('{"step": 3, "eval/return_mean": null}\ntorn')
    assert command(run)[0] == 0
    (run / "metrics.jsonl").unlink()
    assert command(run)[0] == 0


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
    player, evaluation, played = episodes(trained("minatar"), 2)
    reel = Unrepeatable(film.opened(player, evaluation))
    with pytest.raises(film.FilmError, match="does not repeat itself"):
        list(film.plain(reel, played))


class Pictureless:
    """A vector environment as trainers need it, and no more."""

    def __init__(self, env):
        self.reset, self.step, self.close = env.reset, env.step, env.close
        self.num_actions, self.num_envs = env.num_actions, env.num_envs


def test_an_environment_without_pictures_plays_and_says_that_it_has_none(
    trained, command, monkeypatch
):
    from sdqn_lab import build

    made = build.build_env
    monkeypatch.setattr(build, "build_env", lambda cfg, n: Pictureless(made(cfg, n)))
    assert command(trained("minatar"))[0] == 0
    code, table, said = command(trained("minatar"), "--video", "out.mp4")
    assert (code, table) == (2, "")
    assert said[0].startswith("error: --video=out.mp4: Pictureless has no pictures; write")


def pictures(count: int):
    rng = np.random.default_rng(0)
    return (rng.integers(256, size=(64, 65, 3), dtype=np.uint8) for _ in range(count))


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_a_video_that_cannot_be_finished_leaves_what_was_there(suffix):
    def interrupted():
        yield from pictures(20)
        raise KeyboardInterrupt

    path = Path(f"out{suffix}")
    path.write_text("older")
    with pytest.raises(KeyboardInterrupt):
        video.write_video(path, interrupted(), 10.0)
    assert [p.name for p in Path.cwd().iterdir()] == [path.name]
    assert path.read_text() == "older"


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_a_full_disk_is_told_and_leaves_nothing(suffix, share):
    path = Path(f"out{suffix}")
    assert video.write_video(path, pictures(30), 10.0) == 30
    size = path.stat().st_size
    path.unlink()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(share * size), before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            video.write_video(path, pictures(30), 10.0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(Path.cwd().iterdir())


def test_a_video_that_does_not_fit_is_a_line(trained, command, monkeypatch):
    def full(*words):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(video, "write_video", full)
    code, table, said = command(trained("minatar"), "--video", "out.mp4")
    assert code == 2
    assert "mean return" in table
    assert said == [
        "error: --video=out.mp4: cannot be written, No space left on device; write --video with a "
        "file where there is room"
    ]


def test_a_video_needs_pictures_and_a_suffix_that_it_knows():
    with pytest.raises(ValueError, match="pictures must not be empty"):
        video.write_video(Path("out.mp4"), [], 10.0)
    with pytest.raises(ValueError, match=r"path must end in \.mp4 or \.gif, got out\.avi"):
        video.write_video(Path("out.avi"), pictures(1), 10.0)
    assert not list(Path.cwd().iterdir())


def test_a_command_that_is_told_to_end_leaves_no_half_video(copied):
    run = copied("minatar")
    change(run, "episode_cap_frames: .*", "episode_cap_frames: 10000")
    words = ["--video", "out.mp4", "--raster", "--episodes", "1"]
    # So slow that it is met at its work.
    slow = (
        "import sys, time; from sdqn_lab import play; from sdqn_lab.analysis.raster import Raster\n"
        "drawn = Raster.draw\n"
        "Raster.draw = lambda *a: (print('drawing', flush=True), time.sleep(1), drawn(*a))[2]\n"
        "play.end_when_told()\n"
        "sys.exit(play.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", slow, str(run), *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        while "drawing" not in process.stdout.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 143
    finally:
        process.kill()
    assert not list(Path.cwd().iterdir())


@pytest.mark.parametrize("count", [1, 7, 8, 9, 40, 1000])
def test_a_sample_is_spread_over_the_whole_stream(count):
    sample = Sample(8)
    for number in range(count):
        sample.add(np.array([[number]]))
    taken = sample.taken()[:, 0]
    assert 1 <= len(taken) <= 8
    assert len(taken) >= min(count, 4)
    assert taken[0] == 0
    assert len(set(np.diff(taken))) <= 1
    assert count - taken[-1] <= 2 * (taken[1] if len(taken) > 1 else 1)


def test_the_module_answers_as_a_command(trained):
    words = [sys.executable, "-m", "sdqn_lab.play", str(trained("minatar")), "--episodes", "2"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stderr == ""
    assert "minatar_breakout" in done.stdout
    assert json.loads((trained("minatar") / "status.json").read_text())["state"] == "finished"
