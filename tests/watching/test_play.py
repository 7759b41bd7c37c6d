"""`python -m sdqn_lab.play`: what it prints, draws and refuses."""

import csv
import re
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from sdqn_lab.analysis.energy import HOROWITZ
from sdqn_lab.watching import summary
from tests.commands import printed, refused
from tests.watching.runs import change, episodes

pytestmark = pytest.mark.xdist_group("play")


def row(table: str, name: str) -> str:
    (line,) = [line for line in table.splitlines() if line.startswith(f"│ {name} ")]
    return line.split("│")[2].strip()


def test_the_table_says_what_was_played_and_how_it_went(trained, command):
    code, table, said = command(trained("minatar"), "--episodes", 5)
    assert (code, said) == (0, "")
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
    assert re.match(r"[\d.]+ nJ \([\d.]+ nJ if ", row(table, "energy per decision"))
    assert summary.OF_ONE_NETWORK in table
    assert HOROWITZ.name in table


def test_one_episode_has_no_interval_and_the_table_says_so(trained, command):
    _, table, _ = command(trained("minatar"), "--episodes", 1)
    assert re.fullmatch(r"[\d.]+", row(table, "mean return"))
    assert summary.ONE_EPISODE in table
    assert summary.OF_ONE_NETWORK not in table


def test_a_network_without_time_has_active_units_and_no_T(trained, command):
    _, table, _ = command(trained("relu"))
    assert row(table, "T").startswith("none")
    assert row(table, "active units").startswith("conv1 0.")
    assert re.fullmatch(r"[\d.]+ nJ", row(table, "energy per decision"))


def test_equal_seeds_play_equal_episodes_and_others_play_others(trained, command):
    asked = trained("minatar"), "--episodes", 8
    _, table, _ = command(*asked, "--seed", 5)
    assert command(*asked, "--seed", 5)[1] == table
    assert command(*asked, "--seed", 6)[1] != table
    assert command(*asked)[1] == command(*asked, "--seed", 0)[1]


def test_the_table_names_the_protocol_that_was_asked_for(trained, command):
    _, table, _ = command(trained("atari"), "--protocol", "nature", "--episodes", 1)
    protocol = row(table, "protocol")
    assert protocol.startswith("nature: sticky actions 0, no-ops up to 30, cap 18,000 frames, ")


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


def test_several_T_make_a_figure_its_numbers_and_a_table(trained, command):
    run = trained("minatar")
    asked = "--time-windows", "4,1,2", "--episodes", 4, "--out", "fig.png"
    code, table, said = command(run, *asked)
    assert (code, said) == (0, "")
    assert sorted(p.name for p in Path.cwd().iterdir()) == ["fig.csv", "fig.png", "fig.svg"]
    rows = list(csv.DictReader(Path("fig.csv").read_text().splitlines()))
    assert [r["time_window"] for r in rows] == ["1", "2", "4"]
    for number in rows:
        player, _, played = episodes(run, 4, time_window=int(number["time_window"]))
        score = np.mean(played.returns)
        assert float(number["return_mean"]) == score
        assert float(number["return_low"]) <= score <= float(number["return_high"])
        for layer, rate in played.firing_rates.items():
            assert float(number[f"firing_rate/{layer}"]) == pytest.approx(rate)
        assert f"│ {number['time_window']} " in table
    energies = [float(r["energy_nj"]) for r in rows]
    assert energies == sorted(energies)
    drawn = Path("fig.svg").read_text()
    said_below = (player.arm, "minatar: sticky actions 0.1", "4 episodes", "Horowitz 2014")
    assert all(part in drawn for part in said_below)
    with av.open("fig.png") as image:
        assert next(image.decode(video=0)).width > 1000


def test_the_figure_lies_in_the_run_unless_said_otherwise(copied, command):
    run = copied("minatar")
    assert command(run, "--time-windows", "1", "--episodes", 1)[0] == 0
    assert all((run / f"time_windows.{suffix}").exists() for suffix in ("png", "svg", "csv"))


REFUSED = [
    ("", "the following arguments are required: RUN_DIR", ""),
    ("nowhere", "nowhere/config.yaml", ""),
    ("RUN --episodes 0", "--episodes=0", "--episodes=1"),
    ("RUN --episodes x", "--episodes=x", "--episodes=1"),
    ("RUN --episodes 1e9", "--episodes=1e9", "--episodes=1"),
    ("RUN --episodes 1001", "--episodes=1001", "--episodes=1"),
    ("RUN --episodes=-1", "--episodes=-1", "--episodes=1"),
    ("RUN --seed=-1", "--seed=-1", "--seed=1"),
    ("RUN --seed 1.5", "--seed=1.5", "--seed=1"),
    ("RUN --which first", "--which=first", "--which=last"),
    ("RUN --protocol minatr", "protocol=minatr", ""),
    ("RUN --protocol ../algo/dqn", "protocol=../algo/dqn", ""),
    ("RUN --protocol nature", "protocol=nature", "protocol=minatar"),
    (
        "RUN --protocol plain",
        "protocol=plain",
        "--protocol=NAME with the other action set, or none",
    ),
    ("RUN --time-window 0", "--time-window=0", "--time-window=1"),
    ("RUN --time-window 99999999999", "--time-window=99999999999", "--time-window=1"),
    ("RUN --time-window two", "--time-window=two", "--time-window=1"),
    ("RELU --time-window 4", "--time-window=4", ""),
    ("RELU --time-windows 1,2", "--time-windows=[1,2]", ""),
    ("RUN --video out.avi", "--video=out.avi", "--video=out.mp4 or --video=out.gif"),
    ("RUN --video out", "--video=out", "--video=out.mp4 or --video=out.gif"),
    ("RUN --video no/out.mp4", "--video=no/out.mp4", "--video=FILE, a file where there is room"),
    ("RUN --raster", "--raster", "--video=out.mp4 --raster"),
    ("RUN --out a.png", "--out=a.png", "--time-windows=1,2,4,8,16, or --video=a.mp4"),
    ("RUN --time-windows 1,x", "--time-windows=1,x", "--time-windows=1,2,4,8,16"),
    ("RUN --time-windows 0", "--time-windows=0", "--time-windows=1,2,4,8,16"),
    ("RUN --time-windows=", "--time-windows=", "--time-windows=1,2,4,8,16"),
    ("RUN --time-windows 1 --out a.pdf", "--out=a.pdf", "--out=a.png"),
    (
        "RUN --time-windows 1 --out no/a.png",
        "--out=no/a.png",
        "--out=FILE, a file where there is room",
    ),
    ("RUN --time-windows 1 --video a.mp4", "--video=a.mp4", ""),
    ("RUN --time-windows 1 --time-window 2", "--time-window=2", ""),
    ("RUN --bogus", "unrecognized arguments: --bogus", ""),
    ("RUN --vid out.mp4", "unrecognized arguments: --vid out.mp4", ""),
    ("POLE --video out.mp4", "--video=out.mp4", ""),
]


@pytest.mark.parametrize(("line", "what", "instead"), REFUSED, ids=[line for line, *_ in REFUSED])
def test_a_wrong_command_is_answered_in_one_line(
    line, what, instead, trained, command, monkeypatch
):
    monkeypatch.setitem(sys.modules, "pygame", None)
    runs = {"RUN": "minatar", "RELU": "relu", "POLE": "cartpole"}
    answer = command(*[trained(runs[w]) if w in runs else w for w in line.split()])
    printed(answer, what, instead)


def test_several_mistakes_are_answered_together(trained, command):
    asked = "--episodes", 0, "--which", "first", "--video", "out.avi"
    answer = command(trained("minatar"), *asked)
    refused(answer, "--episodes=0: ", "--which=first: ", "--video=out.avi: ")


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


DAMAGES = [
    (no_network, ["network_last.safetensors"]),
    (torn_network, ["network_last.safetensors"]),
    (text_network, ["network_last.safetensors"]),
    (other_network, ["network_last.safetensors"]),
    (torn_config, ["config.yaml"]),
    (list_config, ["config.yaml"]),
    (poor_config, ["config.yaml", "precision"]),
    (wrong_type, ["config.yaml", "many"]),
    (foreign_neuron, ["neuron._target_=subprocess.Popen", "write --trust"]),
    (foreign_env, ["env._target_=subprocess.Popen", "write --trust"]),
    (other_game, ["protocol=minatar", "env.id=seaquest"]),
    (no_game, ["env.id=chess"]),
]


@pytest.mark.parametrize(("damage", "named"), DAMAGES, ids=lambda d: getattr(d, "__name__", ""))
def test_a_damaged_run_is_named_and_nothing_in_it_is_executed(
    damage, named, copied, command, monkeypatch
):
    def executed(*arguments, **more):
        raise AssertionError(f"executed {arguments}")

    run = copied("minatar")
    damage(run)
    monkeypatch.setattr(subprocess.Popen, "__init__", executed)
    command(run).refuses(*named)


def test_a_run_whose_metrics_are_lost_can_still_be_watched(copied, command):
    run = copied("minatar")
    (run / "metrics.jsonl").write_text('{"step": 3, "eval/return_mean": null}\ntorn')
    assert command(run)[0] == 0
    (run / "metrics.jsonl").unlink()
    assert command(run)[0] == 0


def test_the_module_answers_as_a_command(trained):
    arguments = [sys.executable, "-m", "sdqn_lab.play", str(trained("minatar")), "--episodes", "2"]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "minatar_breakout" in done.stdout
