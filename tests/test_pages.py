"""What the pages of docs/ show can be done: code runs, commands are accepted."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from sdqn_lab import bench, config, export, play, report, sweep
from sdqn_lab.commands import arguments
from sdqn_lab.config import planning
from sdqn_lab.config.planning import combinations, plan
from sdqn_lab.runs.directory import RunDirectory
from sdqn_lab.training.cell import run_cell
from sdqn_lab.training.resume import resumed

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md"))
FENCE = re.compile(r"^```(.*?)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"(?:# @package _global_\n)?# ([\w/]+\.(?:py|yaml))\n")
LANGUAGES = {"sh", "python", "yaml", "console", "text", "csv", "json"}
"""The first three are tried here; `console` and `text` show what takes long or needs others."""


def blocks(page: str, *languages: str) -> list[str]:
    found = FENCE.findall((DOCS / page).read_text())
    return [block for language, block in found if language in languages]


def with_blocks(*languages: str) -> list[str]:
    return [page for page in PAGES if blocks(page, *languages)]


def commands(page: str) -> Iterator[list[str]]:
    """The arguments of each command of this package, the name of its module first."""
    for block in blocks(page, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:2] == ["python", "-m"]:
                yield words[2:]


COMMANDS = {tuple(words): page for page in PAGES for words in commands(page)}


@pytest.fixture(scope="module")
def first_run(tmp_path_factory) -> Path:
    """The run of the pages, `outputs/first`, and smaller."""
    folder: Path = tmp_path_factory.mktemp("pages")
    cfg = config.compose(
        ["env=minatar_breakout", "budget=smoke", "tracker=none", "time_window=2", "threads=1"]
    )
    assert run_cell(cfg, RunDirectory(folder / "outputs" / "first"), Console(quiet=True)) == 0
    return folder


@pytest.fixture
def reader(tmp_path, monkeypatch):
    """Writes the files that a page tells to write, into the folder where one stands."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(page: str) -> None:
        for block in blocks(page, "python", "yaml"):
            if match := FILE.match(block):
                (tmp_path / match[1]).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / match[1]).write_text(block)

    return write


@pytest.mark.parametrize("page", PAGES)
def test_every_block_says_what_it_is(page):
    assert {language for language, _ in FENCE.findall((DOCS / page).read_text())} <= LANGUAGES


@pytest.mark.parametrize("page", with_blocks("python"))
def test_every_python_block_runs_after_those_above_it(page, first_run, monkeypatch):
    monkeypatch.chdir(first_run)
    names: dict[str, Any] = {"__name__": "page"}
    for block in blocks(page, "python"):
        exec(compile(block, page, "exec"), names)


@pytest.mark.parametrize("page", with_blocks("yaml"))
def test_every_yaml_block_is_yaml(page):
    assert all(yaml.safe_load(block) for block in blocks(page, "yaml"))


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words)[9:80])
def test_every_command_is_accepted(words, reader, first_run, monkeypatch):
    module, *given = words
    if "--resume" in given:
        monkeypatch.chdir(first_run)
        resumed(given)
    elif module == "sdqn_lab.run":
        reader(COMMANDS[words])
        monkeypatch.setattr(planning, "combinations", lambda *of: some(combinations(*of)))
        args = arguments.parsed(given)
        assert args.help or plan(args.overrides, args.multirun)
    else:
        accepted(module, given, monkeypatch)


def some(cells: list[Any]) -> list[Any]:
    """The first, the last and one between; other tests compose every cell of the studies."""
    return list({id(cells[n]): cells[n] for n in (0, len(cells) // 2, -1)}.values())


def accepted(module: str, given: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a command read its arguments, and stop it before it does what they say."""

    class StoppedError(Exception):
        """It has read them all."""

    def stop(*_: object) -> None:
        raise StoppedError

    match module:
        case "sdqn_lab.play":
            play.parse(given)
        case "sdqn_lab.export":
            export.parse(given)
        case "sdqn_lab.sweep":
            sweep.arguments(given)
        case "sdqn_lab.report":
            monkeypatch.setattr(report, "read", lambda file: [])
            monkeypatch.setattr(report, "compare", stop)
            with pytest.raises(StoppedError):
                report.command(given)
        case "sdqn_lab.bench":
            monkeypatch.setattr(bench, "resolve_threads", stop)
            with pytest.raises(StoppedError):
                bench.command(given)
        case _:
            pytest.fail(f"no command of this package: {module}")
