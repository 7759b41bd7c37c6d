"""The README is short and true: commands compose, code runs, numbers are committed ones."""

import csv
import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig
from rich.console import Console

from sdqn_lab import config
from sdqn_lab.commands import arguments
from sdqn_lab.config.overrides import options
from sdqn_lab.config.planning import plan
from sdqn_lab.runs.directory import RunDirectory
from sdqn_lab.training.cell import run_cell
from tests.cells import numbers

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```\w+\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
FILES = {b.splitlines()[0][2:]: b for b in BLOCKS if b.startswith(("# my_", "# mine/"))}
"""What a reader writes, by the name in its first line."""
SNIPPETS = [block for block in BLOCKS if block.startswith("import ")]
COMMANDS = [
    shlex.split(line)
    for line in re.findall(r"python -m sdqn_lab\.run ([^\n`]*)", README.replace("\\\n", ""))
    if "--resume" not in line
]
OWN = [command for command in COMMANDS if "--config-dir" in command]
SMALL = ["threads=1", "time_window=2"]
NUMBER = r"-?\d+\.?\d*%?"
INTERVAL = re.compile(rf"({NUMBER}) \[({NUMBER}), ({NUMBER})\]")


@pytest.fixture
def reader(tmp_path, monkeypatch):
    """A folder with the files that the README tells to write."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def trained(command: list[str], path: Path) -> DictConfig:
    """Train a command's cell, still smaller; its config."""
    given = arguments.parsed(command).overrides
    cfg = config.compose([*(o for o in given if not o.startswith("hydra.run.")), *SMALL])
    assert run_cell(cfg, RunDirectory(path), Console(quiet=True)) == 0
    return cfg


def test_it_is_read_in_minutes():
    assert len(README.splitlines()) <= 180
    assert len(README.split()) <= 1_700


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: " ".join(c)[:60])
def test_every_command_is_valid(command, reader):
    given = arguments.parsed(command)
    assert plan(given.overrides, given.multirun)


@pytest.mark.parametrize("command", OWN, ids=lambda c: c[2])
def test_what_a_reader_adds_trains(command, reader):
    group, name = command[2].split("=")
    assert trained(command, reader / "run")[group]._target_ in FILES[f"mine/{group}/{name}.yaml"]
    assert any(key.startswith("loss/") for record in numbers(reader / "run") for key in record)


def test_the_added_neuron_is_its_equation(reader):
    neuron, x = import_module("my_neurons").HalvingIF(), torch.full((6, 1), 0.6, requires_grad=True)
    # v: 0.6, 0.9, 1.05 and a spike; under a LIF it would stay below 0.6 for ever.
    spikes = neuron(x)
    assert spikes.flatten().tolist() == [0.0, 0.0, 1.0, 0.0, 0.0, 1.0]
    v, stepped = torch.zeros(1), []
    for current in x:
        spike, v = neuron.step(current, v)
        stepped.append(spike)
    gradients = [torch.autograd.grad(s.sum(), x)[0] for s in (spikes, torch.stack(stepped))]
    assert torch.equal(*gradients)
    with pytest.raises(config.ConfigError, match=r"neuron\.v_threshold=-1: must be > 0"):
        (added,) = [command for command in OWN if "neuron=halving_if" in command]
        plan(arguments.parsed([*added, "neuron.v_threshold=-1"]).overrides, False)


def test_every_snippet_runs(reader):
    (first,) = [c for c in COMMANDS if "hydra.run.dir=outputs/first" in c]
    trained(first, reader / "outputs" / "first")
    for snippet in SNIPPETS:
        exec(compile(snippet, "README.md", "exec"), {})


def test_the_axes_are_named_with_their_options():
    table = re.findall(r"^\| `(\w+)` \| (.*) \|$", README, re.MULTILINE)
    assert {group for group, _ in table} == set(config.GROUPS) - {"sweep"}
    for group, text in table:
        named, there = set(re.findall(r"`(\w+)`", text)), set(options(group))
        assert named <= there
        # Of games and arms there are too many.
        assert group in ("env", "experiment") or named == there


def committed() -> list[tuple[float, ...]]:
    """Estimate, low and high of every interval in tables of results and in pages."""
    found, ends = [], ("estimate", "low", "high")
    for file in (ROOT / "results").rglob("report/tables/*.csv"):
        for row in csv.DictReader(file.read_text().splitlines()):
            names = [key.removesuffix("_low") for key in row if key.endswith("_low")]
            triples = [[row.get(f"{name}_{end}") for end in ends] for name in names]
            found += [tuple(map(float, triple)) for triple in triples if all(triple)]
    for texts in INTERVAL.findall(pages()):
        found.append(tuple(float(text.rstrip("%")) for text in texts))
    return found


def pages() -> str:
    files = [*(ROOT / "results").glob("*/**/README.md"), *(ROOT / "docs").rglob("*.md")]
    return "\n".join(file.read_text() for file in files)


def test_every_interval_is_a_committed_one():
    claims = (ROOT / "results" / "README.md").read_text()
    there, shown = committed(), INTERVAL.findall(README + claims)
    assert shown
    for texts in shown:
        digits = [text.rstrip("%") for text in texts]
        half = [0.5000001 * 10.0 ** -len(text.partition(".")[2]) for text in digits]
        assert any(
            all(abs(float(d) - e) <= h for d, e, h in zip(digits, each, half, strict=True))
            for each in there
        ), texts


def test_every_spread_is_on_the_page_of_its_study():
    shown = re.findall(rf"{NUMBER} ± {NUMBER}", README)
    assert [spread for spread in shown if spread not in pages()] == []


def test_pictures_are_there_and_small():
    names = re.findall(r"!\[[^]]*\]\(([^)]+)\)|<img src=\"([^\"]+)\"", README)
    for name in map("".join, names):
        assert (ROOT / name).stat().st_size < 2_000_000
