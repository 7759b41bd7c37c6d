"""What the documents say is true: commands compose, snippets run, tables equal the files."""

import ast
import json
import re
import shlex
import shutil
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

import pytest
import torch
import yaml
from rich.console import Console

import sdqn_lab
from sdqn_lab import config
from sdqn_lab.assembly import build
from sdqn_lab.commands import arguments
from sdqn_lab.config import schema
from sdqn_lab.config.overrides import options
from sdqn_lab.config.planning import plan
from sdqn_lab.envs.atari import games
from sdqn_lab.runs.directory import RunDirectory
from sdqn_lab.spiking import neuron
from sdqn_lab.training.cell import run_cell
from sdqn_lab.training.resume import resumed

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
DOCUMENTS = [
    *("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/ARCHITECTURE.md", "docs/METRICS.md"),
    *(
        "docs/DEVIATIONS.md",
        "docs/EXPORT.md",
        "docs/GLOSSARY.md",
        "docs/HYDRA.md",
        "docs/PLASTICITY.md",
    ),
    *("docs/SLURM.md", "docs/SPEED.md", "docs/WANDB.md"),
    *("tests/golden/README.md", "examples/README.md", "examples/own_plugins/README.md"),
    "results/networks/README.md",
]
SMALL = ["time_window=2", "threads=1", "budget.steps=700", "algo.iteration_steps=350"]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def rows(text: str) -> list[list[str]]:
    """The cells of every row of every table; the lines below headings are left out."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def section(heading: str) -> str:
    return README.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


COMMANDS = [
    shlex.split(line, comments=True)
    for block in blocks("sh")
    for line in block.splitlines()
    if line.startswith("python -m sdqn_lab.run")
]
SNIPPETS = [block for block in blocks("python") if not block.startswith("# sdqn_lab/")]


@pytest.fixture(scope="module")
def first_run(tmp_path_factory):
    """The README's smoke run, still smaller."""
    folder = tmp_path_factory.mktemp("readme")
    (given,) = [c[3:] for c in COMMANDS if "hydra.run.dir=outputs/first" in c]
    cfg = config.compose([*(o for o in given if not o.startswith("hydra.")), *SMALL])
    assert run_cell(cfg, RunDirectory(folder / "outputs" / "first"), Console(quiet=True)) == 0
    return folder


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: " ".join(c[3:])[:60] or "alone")
def test_every_command_of_the_readme_is_valid(command, first_run, monkeypatch):
    if command[3:4] == ["--resume"]:
        monkeypatch.chdir(first_run)
        resumed(command[3:])
        return
    args = arguments.parsed(command[3:])
    plan(args.overrides, args.multirun)


@pytest.mark.parametrize("snippet", SNIPPETS, ids=lambda s: s.strip().splitlines()[-1][:40])
def test_every_snippet_of_the_readme_runs(snippet, first_run, monkeypatch):
    monkeypatch.chdir(first_run)
    exec(compile(snippet, "README.md", "exec"), {})


def test_a_neuron_added_as_the_readme_says_is_an_option_like_any_other(tmp_path, monkeypatch):
    (code,) = [block for block in blocks("python") if block.startswith("# sdqn_lab/")]
    (option,) = blocks("yaml")
    module, file = code.splitlines()[0][2:], option.splitlines()[0][2:]
    assert ROOT / module == Path(neuron.__file__)
    # As if it stood at the end of the module.
    added = dict(vars(neuron))
    exec(compile(code, module, "exec"), added)
    monkeypatch.setattr(neuron, "HalvingIF", added["HalvingIF"], raising=False)
    shutil.copytree(config.conf_dir(), tmp_path / "conf")
    (tmp_path / file).write_text(option)
    monkeypatch.setattr(schema, "folder", lambda name: tmp_path / name)

    arguments = [f"neuron={Path(file).stem}", "env=minatar_breakout", "time_window=6"]
    network = build.build_network(config.compose(arguments), (4, 10, 10), 6)
    q = network(torch.ones(2, 4, 10, 10))
    assert q.shape == (2, 6)
    made, x = added["HalvingIF"](), torch.full((6, 1), 0.6, requires_grad=True)
    # v: 0.6, 0.9, 1.05 and a spike; under a LIF it would stay below 0.6 for ever.
    spikes = made(x)
    assert spikes.flatten().tolist() == [0.0, 0.0, 1.0, 0.0, 0.0, 1.0]
    v, stepped = torch.zeros(1), []
    for current in x:
        spike, v = made.step(current, v)
        stepped.append(spike)
    gradients = [torch.autograd.grad(s.sum(), x)[0] for s in (spikes, torch.stack(stepped))]
    assert torch.equal(*gradients)
    with pytest.raises(config.ConfigError, match=r"neuron\.v_threshold=-1: must be > 0"):
        config.compose([*arguments, "neuron.v_threshold=-1"])


def axis_table() -> dict[str, set[str]]:
    table = rows(section("The axes"))[1:]
    return {group.strip("`"): set(re.findall(r"`([^`]+)`", options)) for group, options, _ in table}


@pytest.mark.parametrize("group", [group for group in config.GROUPS if group != "sweep"])
def test_the_table_of_axes_names_every_option(group):
    named = axis_table()[group]
    there = set(options(group))
    if group == "env":
        there -= set(games())
    assert there <= named
    assert all(word in there or "=" in word for word in named)


def test_the_table_of_protocols_equals_the_files():
    keys = ["sticky_actions", "noop_max", "fire_reset", "life_loss_ends_bootstrap"]
    keys += ["reward_clipping", "episode_cap_frames", "full_action_space", "epsilon_eval"]
    keys += ["eval_episodes"]
    meanings = {"yes": True, "no": False}
    written = {
        name.strip("`"): [
            meanings[v] if v in meanings else float(v.replace(",", "")) for v in values[:-1]
        ]
        for name, *values in rows(section("Protocols"))[1:]
    }
    files = {
        path.stem: [yaml.safe_load(path.read_text())[key] for key in keys]
        for path in (ROOT / "conf" / "protocol").glob("*.yaml")
    }
    assert written == files


@pytest.mark.parametrize(("column", "env"), [(1, "pong"), (2, "minatar_asterix"), (3, "acrobot")])
def test_the_table_of_budgets_equals_the_files(column, env):
    for row in rows(section("Budgets"))[1:]:
        budget = row[0].strip("`")
        steps = config.compose([f"env={env}", f"budget={budget}", "experiment=dqn"]).budget.steps
        assert int(row[column].replace(",", "")) == steps


def test_every_written_metric_is_documented_and_every_documented_one_is_written(
    first_run, tmp_path
):
    cfg = config.compose(["env=cartpole", "experiment=pl_ppo", "budget=smoke", "tracker=none"])
    assert run_cell(cfg, RunDirectory(tmp_path), Console(quiet=True)) == 0
    folders = first_run / "outputs" / "first", tmp_path
    lines = [line for each in folders for line in (each / "metrics.jsonl").read_text().splitlines()]
    written = {key for line in lines for key in json.loads(line)}
    text = (ROOT / "docs" / "METRICS.md").read_text()
    documented = {cells[0].strip("`") for cells in rows(text) if cells[0].startswith("`")}
    patterns = [key.replace("<layer>", "*") for key in documented]
    assert [k for k in written if not any(fnmatchcase(k, p) for p in patterns)] == []
    unseen = {p for p in patterns if not any(fnmatchcase(k, p) for k in written)}
    assert unseen <= {"health/event", "time/checkpoint_seconds"}


def test_the_run_directory_holds_what_the_readme_lists(first_run):
    listed = set(
        re.findall(r"^\| (`.*?`(?:, `.*?`)*) \|", section("What a run leaves behind"), re.M)
    )
    names = {name.strip("/") for cell in listed for name in re.findall(r"`(.*?)`", cell)}
    there = {path.name for path in (first_run / "outputs" / "first").iterdir()}
    assert there <= names
    # Changed code, cells of a multirun, and other trackers leave the rest.
    tracked = {"wandb", "tensorboard", "tracker.json", "tracker.log", ".tracker.lock"}
    assert names - there - {"code.diff"} == {"checkpoint", "log.txt", *tracked}


def test_deviations_are_numbered_without_gaps_and_each_names_a_test():
    table = [r for r in rows((ROOT / "docs" / "DEVIATIONS.md").read_text()) if r[0] != "#"]
    assert [int(cells[0]) for cells in table] == list(range(1, len(table) + 1))
    assert [cells[0] for cells in table if len(cells) != 5 or "::test_" not in cells[4]] == []


@cache
def functions(file: Path) -> set[str]:
    return {
        node.name for node in ast.parse(file.read_text()).body if isinstance(node, ast.FunctionDef)
    }


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_named_test_exists(document):
    for file, name in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / document).read_text()):
        assert name in functions(ROOT / file), name


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_and_named_file_exists(document):
    text = (ROOT / document).read_text()
    links = [Path(document).parent / link for link in re.findall(r"\]\(([^):#]+)\)", text)]
    links += re.findall(r"`((?:tests|conf|sweeps|docs|sdqn_lab|\.ci)/[\w/.]*)`", text)
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_version_is_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == sdqn_lab.__version__
    assert f'version = "{sdqn_lab.__version__}"' in (ROOT / "pyproject.toml").read_text()
    assert f"\n## {sdqn_lab.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_hooks_and_workflow_call_what_the_project_has():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [repo["repo"] for repo in hooks] == ["local"]
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    (job,) = workflow["jobs"].values()
    assert job["strategy"]["matrix"]["python-version"] == ["3.11", "3.12"]
    assert job["steps"][-1] == {"run": ".ci/run"}
    assert (ROOT / ".ci" / "run").exists()
