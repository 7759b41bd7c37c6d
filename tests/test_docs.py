"""What the documents say is true: tables equal the files, links lead somewhere."""

import ast
import json
import re
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

import pytest
import yaml
from rich.console import Console

import sdqn_lab
from sdqn_lab import config
from sdqn_lab.config.overrides import options
from sdqn_lab.envs.atari import games
from sdqn_lab.runs.directory import RunDirectory
from sdqn_lab.training.cell import run_cell

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [
    *("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "tests/golden/README.md"),
    *("examples/README.md", "examples/own_plugins/README.md"),
    *(str(page.relative_to(ROOT)) for page in sorted((ROOT / "docs").rglob("*.md"))),
    *(str(page.relative_to(ROOT)) for page in sorted((ROOT / "results").rglob("README.md"))),
]
SMALL = ["time_window=2", "threads=1", "budget.steps=700", "algo.iteration_steps=350"]


def rows(text: str) -> list[list[str]]:
    """The cells of every row of every table; the lines below headings are left out."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def section(page: str, heading: str) -> str:
    text = (ROOT / "docs" / page).read_text()
    return text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


@pytest.fixture(scope="module")
def first_run(tmp_path_factory):
    """The pages' run `outputs/first`, still smaller."""
    folder = tmp_path_factory.mktemp("pages")
    cfg = config.compose(["env=minatar_breakout", "budget=smoke", "tracker=none", *SMALL])
    assert run_cell(cfg, RunDirectory(folder / "outputs" / "first"), Console(quiet=True)) == 0
    return folder


def axis_table() -> dict[str, set[str]]:
    table = rows(section("reference/axes.md", "The axes"))[1:]
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
        for name, *values in rows(section("background/protocols.md", "The protocols"))[1:]
    }
    files = {
        path.stem: [yaml.safe_load(path.read_text())[key] for key in keys]
        for path in (ROOT / "conf" / "protocol").glob("*.yaml")
    }
    assert written == files


@pytest.mark.parametrize(("column", "env"), [(1, "pong"), (2, "minatar_asterix"), (3, "acrobot")])
def test_the_table_of_budgets_equals_the_files(column, env):
    for row in rows(section("how-to/resume.md", "Budgets"))[1:]:
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


def test_the_run_directory_holds_what_its_page_lists(first_run):
    page = section("reference/run_directory.md", "What a run leaves behind")
    listed = set(re.findall(r"^\| (`.*?`(?:, `.*?`)*) \|", page, re.M))
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
