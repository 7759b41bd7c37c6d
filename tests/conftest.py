"""Stricter than in use: one thread, deterministic algorithms, a folder of its own."""

import logging
import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic products on a GPU

import sdqn_lab  # noqa: F401  (before torch: it chooses how torch's threads wait)

# isort: split
import torch
from rich.console import Console

from sdqn_lab.runs.directory import RunDirectory
from tests.commands import Answer
from tests.launching.sweeps import KEPT

ONE_WORKER = ("engines", "slurm")
"""Folders whose tests run in one process: side by side they would all compile the same kernels, and
wait for each other's CPUs."""


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent.name in ONE_WORKER:
            item.add_marker(pytest.mark.xdist_group(item.path.parent.name))


@pytest.fixture(autouse=True)
def strict_torch() -> Iterator[None]:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """Hydra sets up logging on streams that end with the test that captured them."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    yield
    for handler in [one for one in root.handlers if one not in before]:
        root.removeHandler(handler)
    root.setLevel(level)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def carry_out(capsys) -> Callable[..., Answer]:
    """Run a command's `main` in this process."""

    def command(main: Callable[[list[str]], int], *arguments: object) -> Answer:
        capsys.readouterr()
        code = main([str(each) for each in arguments])
        return Answer(code, *capsys.readouterr())

    return command


@pytest.fixture
def no_gpu(monkeypatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)


@pytest.fixture
def single(carry_out, no_gpu) -> Callable[..., Answer]:
    """Run `sdqn_lab.run` in this process; no GPU is there."""
    from sdqn_lab import run

    return partial(carry_out, run.main)


@pytest.fixture
def multirun(single) -> Callable[..., Answer]:
    """The same as a multirun."""
    return partial(single, "-m")


@pytest.fixture(scope="session")
def trained_once(tmp_path_factory) -> Path:
    """A finished run of `KEPT`, made once in a process; not to be changed."""
    from sdqn_lab import config
    from sdqn_lab.training.cell import run_cell

    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("trained") / "run"
    assert run_cell(config.compose(KEPT), RunDirectory(path), Console(quiet=True)) == 0
    return path


@pytest.fixture
def finished(trained_once) -> Path:
    """A copy of it in the working directory; its state was kept, so that it can go on."""
    shutil.copytree(trained_once, "run")
    return Path("run")


@pytest.fixture
def own_conf(tmp_path_factory, monkeypatch) -> Path:
    """A copy of the configs, to which a user has added files."""
    from sdqn_lab.config import schema

    copy = tmp_path_factory.mktemp("own") / "conf"
    shutil.copytree(schema.conf_dir(), copy)
    monkeypatch.setattr(schema, "folder", lambda name: copy)
    return copy
