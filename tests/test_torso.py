"""`torso=RUN_DIR`: a run begins with the torso of another, which it reads as data."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from sdqn_lab.networks.fingerprint import stored
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
