"""Trained runs, each made once in a process, and the command that plays them."""

import shutil
from functools import partial
from pathlib import Path

import pytest
from rich.console import Console

from sdqn_lab import config, play
from sdqn_lab.runs.directory import RunDirectory
from sdqn_lab.training.cell import run_cell
from tests.watching.runs import COMMON, RUNS


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
def command(carry_out):
    """Run the command in this process."""
    return partial(carry_out, play.main)
