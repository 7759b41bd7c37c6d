"""Committed networks can be loaded, are small, and their cards say what they are."""

import re
import shlex
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import sdqn_lab
from sdqn_lab import play

NETWORKS = Path(__file__).resolve().parents[1] / "results" / "networks"
COMMITTED = sorted(file.parent for file in NETWORKS.glob("*/*/README.md"))
FILES = {"README.md", "config.yaml", "network_last.safetensors", "status.json"}


@pytest.fixture
def collect():
    spec = spec_from_file_location("collect_networks", NETWORKS / "collect.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("place", COMMITTED, ids=[f"{p.parent.name}/{p.name}" for p in COMMITTED])
def test_a_committed_network_is_loaded_and_is_what_its_card_says(place):
    assert {file.name for file in place.iterdir()} == FILES
    player = sdqn_lab.load(place)
    choices = player.cfg.choices
    assert (choices.env, f"{choices.neuron}_{choices.norm}") == (place.parent.name, place.name)
    card = (place / "README.md").read_text()
    parameters = sum(parameter.numel() for parameter in player.network.parameters())
    assert f"{parameters:,} parameters" in card
    assert f"seed {player.cfg.seed} |" in card
    observations = np.zeros((3, *player.make_env(1).observation_shape), np.uint8)
    assert player.q_values(observations).shape == (3, player.num_actions)
    assert re.search(r"commit [0-9a-f]{8},", card), "of code that was committed"
    (command,) = re.findall(r"python -m sdqn_lab\.play (.+)", card)
    request = play.parse(shlex.split(command))
    assert NETWORKS.parents[1] / request.run_dir == place
    # Starts of training have the run's own seed.
    assert request.seed not in range(5)


def test_committed_networks_are_small():
    sizes = [file.stat().st_size for file in NETWORKS.rglob("*") if file.is_file()]
    assert max(sizes) < 1_000_000
    assert sum(sizes) < 8_000_000


def test_the_best_seed_is_that_of_the_last_window_and_unfinished_ones_do_not_count(collect):
    def score(seed, last, best, state="finished"):
        return SimpleNamespace(run=SimpleNamespace(seed=seed, state=state), last=last, best=best)

    found = [score(0, 8.0, 20.0), score(1, 9.0, 9.5), score(2, 30.0, 30.0, state="running")]
    task = SimpleNamespace(game="minatar_breakout")
    scores = SimpleNamespace(
        comparison=SimpleNamespace(tasks=[task], arms=["mine"]), of=lambda task, arm: found
    )
    assert [(s.run.seed, n) for s, n in collect.chosen(scores, [])] == [(1, 2)]
    assert [(s.run.seed, n) for s, n in collect.chosen(scores, ["minatar_breakout"])] == [(1, 2)]
    assert list(collect.chosen(scores, ["minatar_asterix"])) == []
