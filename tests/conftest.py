"""Stricter than in use: one thread, deterministic algorithms, a folder of its own."""

import os
from collections.abc import Callable, Iterator

import pytest

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic products on a GPU

import sdqn_lab  # noqa: F401  (before torch: it chooses how torch's threads wait)

# isort: split
import torch

from tests.commands import Answer


@pytest.fixture(autouse=True)
def strict_torch() -> Iterator[None]:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def single(capsys, monkeypatch) -> Callable[..., Answer]:
    """Run `sdqn_lab.run` in this process; no GPU is there."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)

    def command(*arguments: str) -> Answer:
        from sdqn_lab import run

        capsys.readouterr()
        code = run.main(arguments)
        return Answer(code, *capsys.readouterr())

    return command


@pytest.fixture
def multirun(single) -> Callable[..., Answer]:
    """The same as a multirun."""
    return lambda *arguments: single("-m", *arguments)
