import sys
from collections.abc import Iterator
from contextlib import suppress

import pytest

from sdqn_lab.runs.directory import RunDirectory
from sdqn_lab.tracking import follow
from tests.tracking.wandb_server import WandbServer

KEY = "0123456789" * 4


@pytest.fixture(autouse=True)
def no_account(tmp_path, monkeypatch) -> None:
    """No key, no settings, nobody's home: what this machine has configured plays no part."""
    names = ["API_KEY", "BASE_URL", "MODE", "PROJECT", "ENTITY", "CACHE_DIR", "SERVICE", "DIR"]
    for name in [*names, "RUN_ID", "SWEEP_ID", "SWEEP_PARAM_PATH"]:
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("NETRC", raising=False)


@pytest.fixture(autouse=True)
def time_enough(monkeypatch) -> None:
    """A busy machine starts a follower late; tests of what a run does then set their own."""
    monkeypatch.setattr(follow, "PATIENCE_SECONDS", 60.0)


@pytest.fixture(autouse=True)
def no_client_left() -> Iterator[None]:
    """A client whose server failed ends with its process; here it would meet the next test."""
    yield
    if "wandb" in sys.modules:
        with suppress(Exception, SystemExit):
            sys.modules["wandb"].teardown()


@pytest.fixture
def shown() -> list[str]:
    """The lines that a person was shown."""
    return []


@pytest.fixture
def directory(tmp_path) -> RunDirectory:
    """Of a cell of a sweep that has not begun."""
    return RunDirectory(tmp_path / "norms" / "pong_seed0")


@pytest.fixture
def server(monkeypatch) -> Iterator[WandbServer]:
    """A W&B server that accepts any key, and a key for it."""
    with WandbServer() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        yield server
