"""`torso=RUN_DIR`: a run begins with the torso of another, which it reads as data."""

import json
import shutil

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file
from torch import nn

from sdqn_lab.build import build_network
from sdqn_lab.checks.refused import ConfigError
from sdqn_lab.config import compose
from sdqn_lab.networks.fingerprint import stored
from sdqn_lab.runs.directory import RunDirectory
from sdqn_lab.training.cell import save_network
from sdqn_lab.training.checkpoint import EMPTY
from sdqn_lab.training.resume import resumed
from tests.cells import run
from tests.refusals import problems

SMALL = ["env=bandit", "network.hidden=8", "time_window=2", "algo.iteration_steps=20"]
SMALL += ["protocol.eval_episodes=1", "tracker=none", "device=cpu", "threads=1"]
FIRST = [*SMALL, "algo=reinforce", "algo.rollout_steps=1", "budget.steps=40"]
SECOND = [*SMALL, "algo=plasticity", "keep_state=true"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    path = tmp_path_factory.mktemp("torso") / "trained"
    assert run(FIRST, path) == 0
    return path


def torso(path):
    tensors = load_file(path / "network_last.safetensors")
    return {name: tensor for name, tensor in tensors.items() if name.startswith("torso.")}


def test_plasticity_keeps_a_trained_torso_and_goes_on_when_that_run_is_gone(trained, tmp_path):
    source, path = shutil.copytree(trained, tmp_path / "source"), tmp_path / "run"
    asked = [*SECOND, f"torso={source}"]
    assert run([*asked, "budget.steps=40"], path) == 0
    there, here = torso(source), torso(path)
    assert there.keys() == here.keys() != set()
    assert all(torch.equal(there[name], here[name]) for name in there)
    # Another than what the seed draws.
    assert run([*SECOND, "budget.steps=20"], tmp_path / "drawn") == 0
    drawn = torso(tmp_path / "drawn")
    assert not all(torch.equal(there[name], drawn[name]) for name in there)
    (attempt,) = json.loads((path / "status.json").read_text())["attempts"]
    sha = stored(source / "network_last.safetensors").sha256
    assert attempt["torso"] == {"run": str(source), "network_sha256": sha}
    longer = [*asked, "budget.steps=60"]
    straight = tmp_path / "straight"
    assert run(longer, straight) == 0
    shutil.rmtree(source)
    assert run(longer, path) == 0
    ends = [load_file(each / "network_last.safetensors") for each in (path, straight)]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    assert "torso" not in json.loads((path / "status.json").read_text())["attempts"][1]


def unfinished(path):
    status = json.loads((path / "status.json").read_text())
    (path / "status.json").write_text(json.dumps(status | {"state": "failed"}))


def damaged(path):
    file = path / "network_last.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def linked(path):
    file = path / "network_last.safetensors"
    file.rename(path / "elsewhere")
    file.symlink_to(path / "elsewhere")


def hostile(path):
    text = (path / "config.yaml").read_text()
    (path / "config.yaml").write_text(f"{text}mine: {{_target_: os.system}}\n")


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (shutil.rmtree, "is no directory of a finished run"),
        (unfinished, "is no directory of a finished run"),
        (damaged, "cannot be read"),
        (linked, "cannot be read"),
        (hostile, "cannot be read"),
    ],
)
def test_what_is_no_finished_run_is_refused_in_one_line(change, rule, trained, tmp_path):
    source = shutil.copytree(trained, tmp_path / "source")
    change(source)
    (problem,) = problems([*SECOND, f"torso={source}"])
    assert (problem.key, problem.value) == ("torso", str(source))
    assert rule in problem.rule
    assert "\n" not in str(problem)


@pytest.mark.parametrize(
    ("override", "key", "instead"),
    [
        ("neuron=relu", "neuron._target_", "sdqn_lab.spiking.neuron.LIF"),
        ("neuron.v_threshold=0.5", "neuron.v_threshold", "1"),
        ("norm=none", "norm._target_", "sdqn_lab.spiking.norm.PopNorm"),
        ("network.hidden=16", "torso", "network.KEY=VALUE"),
        ("network.layers=1", "torso", "network.KEY=VALUE"),
        ("env=gridworld", "torso", "network.KEY=VALUE"),
    ],
)
def test_a_torso_that_does_not_fit_is_refused_in_one_line(override, key, instead, trained):
    (problem,) = problems([*SECOND, f"torso={trained}", override])
    assert problem.key == key
    assert instead in problem.instead
    assert "\n" not in str(problem)


@pytest.mark.parametrize(
    ("changed", "value", "key"),
    [
        ("env.observation_scale", 2.0, "env.observation_scale"),
        ("env.normalize_observations", True, "env.normalize_observations"),
        ("encoder.learned", True, "torso"),
        ("neuron", 3, "torso"),
    ],
)
def test_a_torso_that_saw_other_numbers_is_refused_in_one_line(
    changed, value, key, trained, tmp_path
):
    source = shutil.copytree(trained, tmp_path / "source")
    config = OmegaConf.load(source / "config.yaml")
    OmegaConf.update(config, changed, value)
    OmegaConf.save(config, source / "config.yaml")
    (problem,) = problems([*SECOND, f"torso={source}"])
    assert problem.key == key
    assert "\n" not in str(problem)


def test_a_torso_from_before_thresholds_could_be_learned_fits(trained, tmp_path):
    source = shutil.copytree(trained, tmp_path / "source")
    config = OmegaConf.load(source / "config.yaml")
    del config.neuron["learn_threshold"]
    OmegaConf.save(config, source / "config.yaml")
    compose([*SECOND, f"torso={source}", "budget.steps=40"])


def test_a_dead_torso_is_told_no_change_that_it_would_not_fit(trained, tmp_path):
    source = shutil.copytree(trained, tmp_path / "source")
    silent = [*FIRST, "norm=none", "surrogate=gate"]
    cfg = compose(silent)
    OmegaConf.save(cfg, source / "config.yaml")
    network = build_network(cfg, (4,), 4)
    for parameter in network.torso.parameters():
        nn.init.constant_(parameter, -1.0)
    save_network(network, source / "network_last.safetensors", (4,), 4)
    asked = [*silent, f"torso={source}", "health=warn"]
    assert run(asked, tmp_path / "run") == 0
    assert json.loads((tmp_path / "run" / "health.json").read_text())["fixes"] == []


def test_a_run_that_has_saved_nothing_yet_still_needs_its_torso(trained, tmp_path):
    source, path = shutil.copytree(trained, tmp_path / "source"), tmp_path / "run"
    path.mkdir()
    cfg = compose([*SECOND, f"torso={source}", "budget.steps=40"])
    (path / "config.yaml").write_text(OmegaConf.to_yaml(cfg))
    RunDirectory(path).update(state="preempted", cell="run")
    (path / "checkpoint").mkdir()
    (path / "checkpoint" / "manifest.json").write_text(json.dumps(EMPTY))
    shutil.rmtree(source)
    # It lies outside of the run's directory, which may be a stranger's.
    with pytest.raises(ConfigError, match=f"torso={source}: .* names another run"):
        resumed(["--resume", str(path)])
    with pytest.raises(ConfigError, match="no directory of a finished run"):
        resumed(["--resume", str(path), "--trust"])


def test_a_torso_is_one_cell_however_its_path_is_written(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(trained.parent)
    assert compose([*SECOND, f"torso={trained.name}"]).torso == str(trained)
