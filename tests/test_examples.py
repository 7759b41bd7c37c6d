"""Examples do what they say, and are used here as a reader would."""

import os
import re
import runpy
import shlex
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from omegaconf import OmegaConf
from torch import nn

import sdqn_lab
from sdqn_lab import config, play, report, run
from sdqn_lab.agents.base import EnvSpec, Row
from sdqn_lab.runs.stopping import PREEMPTED_EXIT
from tests import cells
from tests.commands import refused

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
OWN = EXAMPLES / "own_plugins"
NETWORK = EXAMPLES.parent / "results" / "networks" / "minatar_breakout" / "lif_popnorm"
OPTIONS = ["env=catch", "neuron=quadratic", "norm=rms", "algo=expected_sarsa", "time_window=3"]
OPTIONS += ["budget=smoke", "tracker=none", "network.hidden=16"]
FOUND = f"hydra.searchpath=[file://{OWN / 'conf'}]"
MAINS = {"run": run.main, "play": play.main, "report": report.main}


def test_a_committed_network_is_evaluated_as_by_play_and_its_raster_drawn(
    capsys, carry_out, monkeypatch
):
    few = ["--episodes", "3", "--seed", "1003"]
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *few])
    runpy.run_path(str(EXAMPLES / "evaluate.py"))
    said = capsys.readouterr().out
    assert Path("raster.png").stat().st_size > 5_000
    (score,) = re.findall(r"mean return (\S+ \[.*?\])", said)
    assert score in carry_out(play.main, NETWORK, *few).out


def test_the_notebook_runs_and_its_committed_outputs_can_be_read(monkeypatch, tmp_path):
    import nbformat
    from nbclient import NotebookClient

    for name in ("JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    file = EXAMPLES / "first_ablation.ipynb"
    assert file.stat().st_size < 500_000
    notebook = nbformat.read(file, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, 1 + len(cells)))
    shown = [output.get("data", {}) for cell in cells for output in cell.outputs]
    assert sum("image/png" in data for data in shown) == 3
    (parameters,) = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    tiny = "network.channels=[4] network.hidden=16 hydra/launcher=basic"
    parameters.source += f'\nBUDGET, SEEDS = "budget=smoke {tiny}", "seed=0"'
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute(cwd=str(tmp_path))
    shown = [output.get("data", {}) for cell in cells for output in cell.outputs]
    assert sum("image/png" in data for data in shown) == 3


@pytest.fixture
def at_home(monkeypatch):
    """Where a reader stands, and what the README has him export."""
    Path("examples").symlink_to(EXAMPLES)
    monkeypatch.syspath_prepend(OWN)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["examples/own_plugins", *sys.path]))


def commands(readme):
    """What it has a reader type, at the smallest size and with the cells in this process."""
    block = readme.read_text().partition("```sh\n")[2].partition("```")[0]
    for line in block.splitlines():
        _, _, module, *words = shlex.split(line) if "-m" in line else (0, 0, "", line)
        if module:
            words = [word.replace("budget=short", "budget=smoke") for word in words]
            own = ["network.hidden=16", "device=cpu"] if "env=catch" in words else []
            own += ["hydra/launcher=basic"] if "-m" in words else []
            yield module.rpartition(".")[2], [*words, *own]


def test_what_the_readme_of_own_plugins_has_one_type_works(at_home, carry_out):
    lines = list(commands(OWN / "README.md"))
    assert [name for name, _ in lines] == ["run", "play", "run", "run", "report"]
    for name, words in lines:
        answer = carry_out(MAINS[name], *words)
        assert answer.code == 0, (words, answer)
    for arm in ("quadratic, norm=rms", "quadratic, norm=popnorm", "lif, norm=rms"):
        assert f"neuron={arm}" in Path("multirun/catch/report/index.html").read_text()
    assert Path("catch.gif").stat().st_size > 1_000


def test_cells_of_a_multirun_are_processes_that_find_own_plugins(at_home, multirun):
    answer = multirun(f"--config-dir={OWN / 'conf'}", *OPTIONS, "budget.steps=64", "seed=3")
    assert answer.code == 0, answer
    (stored,) = Path("multirun").glob("*/*/config.yaml")
    assert OmegaConf.load(stored).choices.neuron == "quadratic"


def test_a_run_of_own_plugins_that_is_stopped_goes_on_bit_for_bit(at_home, tmp_path, monkeypatch):
    from own_plugins.algo import ExpectedSarsa

    # Spikes by chance, from a stream that must go on too.
    overrides = [*OPTIONS[:1], *OPTIONS[2:], FOUND, "neuron=bernoulli"]
    assert cells.run(overrides, tmp_path / "whole") == 0
    observe, calls = ExpectedSarsa.observe, []

    def observe_and_stop(agent, row, extras):
        observe(agent, row, extras)
        calls.append(len(agent.rows))
        if len(calls) == 20:
            os.kill(os.getpid(), signal.SIGUSR2)

    monkeypatch.setattr(ExpectedSarsa, "observe", observe_and_stop)
    assert cells.run(overrides, tmp_path / "stopped") == PREEMPTED_EXIT
    assert calls[-1] == 2
    with pytest.raises(config.ConfigError, match="--trust"):
        sdqn_lab.load(tmp_path / "stopped")
    assert run.main(["--resume", str(tmp_path / "stopped"), "--trust"]) == 0
    assert cells.numbers(tmp_path / "stopped") == cells.numbers(tmp_path / "whole")
    weights = [
        (tmp_path / n / "network_last.safetensors").read_bytes() for n in ("whole", "stopped")
    ]
    assert weights[0] == weights[1]


def test_wrong_values_of_own_plugins_are_all_refused_at_once(at_home, single):
    wrong = ["neuron.tau=0", "norm.eps=0", "algo.epsilon=2", "neuron.reset=soft"]
    Path("examples").unlink()
    refused(single(*OPTIONS, FOUND, wrong[3]), "neuron.reset=soft | no key reset")
    refused(
        single(*OPTIONS, FOUND, *wrong[:3]),
        "neuron.tau=0: must be > 0; write neuron.tau=2.0",
        "norm.eps=0: must be > 0; write norm.eps=1e-05",
        "algo.epsilon=2: must lie in [0, 1]; write algo.epsilon=0.1",
    )


def test_a_package_that_is_not_there_is_named_with_the_remedy(single):
    answer = single("env=cartpole", "neuron._target_=nowhere_to_be_found.neuron.Mine")
    refused(answer, "there is no package nowhere_to_be_found; install it | PYTHONPATH")


def test_the_quadratic_neuron_rises_by_itself_above_its_critical_value(at_home):
    from own_plugins.neuron import Quadratic

    neuron = Quadratic(tau=1.0, a=1.0, v_critical=0.5)
    # v: 1/4, 7/16, 169/256 and above 1 in the fourth step; IF would need five, as v > 1 fires.
    spikes = neuron(torch.full((5, 1), 0.25))
    assert spikes.flatten().tolist() == [0.0, 0.0, 0.0, 1.0, 0.0]
    below, above = neuron.charge(torch.zeros(2), torch.tensor([0.25, 0.75])).tolist()
    assert (below, above) == (0.1875, 0.9375)


def test_rms_norm_is_torchs_scaled_to_the_neuron_behind(at_home):
    from own_plugins.norm import RMSNorm

    x = torch.randn(3, 2, 4, 5, 5)
    expected = 3.0 * nn.functional.rms_norm(x, (4, 5, 5), eps=1e-5) - 1.0
    torch.testing.assert_close(RMSNorm((4, 5, 5), v_threshold=2.0, v_reset=-1.0)(x), expected)


def test_every_ball_of_catch_can_be_caught_and_standing_still_catches_one_in_five(at_home):
    from own_plugins.env import COLUMNS, Catch

    game = Catch()
    check_env(game, skip_render_check=True)
    caught = {}
    for seed in range(40):
        for name in ("follow", "stay"):
            board, total, down = game.reset(seed=seed)[0], 0.0, False
            column = int(board[:COLUMNS].argmax())
            while not down:
                paddle = int(board[-COLUMNS:].argmax())
                wanted = 1 + int(np.sign(column - paddle)) if name == "follow" else 1
                board, reward, down, _, _ = game.step(wanted)
                total += reward
            caught[name, column] = total
    assert caught == {
        **{("follow", column): 1.0 for column in range(COLUMNS)},
        **{("stay", column): 1.0 if column == 2 else -1.0 for column in range(COLUMNS)},
    }


class Table(nn.Module):
    """Q-values of two states, by number."""

    def __init__(self):
        super().__init__()
        self.q = nn.Parameter(torch.tensor([[1.0, 2.0], [3.0, 5.0]]))

    def forward(self, observations, time_window=None, generator=None):
        return self.q[observations[:, 0].long()]


def test_expected_sarsa_bootstraps_from_what_its_policy_is_worth(at_home):
    from own_plugins.algo import ExpectedSarsa

    agent = ExpectedSarsa(
        Table(), EnvSpec((1,), 2), seed=0, num_envs=3, iteration_steps=9, gamma=0.5, epsilon=0.2
    )
    no = np.zeros(3, bool)
    first = Row(
        np.array([[0], [1], [1]], np.float32),
        np.array([0, 1, 1]),
        np.array([1.0, -1.0, 9.0], np.float32),
        np.array([False, True, False]),
        np.array([True, True, False]),
    )
    agent.observe(first, {})
    assert list(agent.learn(0)) == []
    agent.observe(first._replace(observations=np.ones((3, 1), np.float32), terminal=no), {})
    # v = 0.8 5 + 0.2 4; errors 1 + 4.8 / 2 - 1 and -1 - 5, the third step is none.
    (metrics,) = agent.learn(3)
    assert metrics["loss/td"].item() == pytest.approx((2.4**2 + 6.0**2) / 3)
    agent.close(first.observations)
    agent.observe(first, {})
    assert list(agent.learn(6)) == []


@pytest.mark.slow
def test_own_plugins_learn_to_catch_every_ball(at_home, tmp_path):
    assert cells.run([*OPTIONS[:5], FOUND, "budget=short", "tracker=none"], tmp_path / "run") == 0
    assert cells.numbers(tmp_path / "run")[-1]["eval/return_mean"] == 1.0
