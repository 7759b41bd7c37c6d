"""The protocols of conf/protocol, for the environments' tests."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from sdqn_lab.checks.refused import Refused
from sdqn_lab.envs.base import Protocol

PROTOCOLS = Path(__file__).parents[2] / "conf" / "protocol"


def _load(name: str, **changes: object) -> Protocol:
    fields = yaml.safe_load((PROTOCOLS / f"{name}.yaml").read_text())
    return dataclasses.replace(Protocol(**fields), **changes)


@pytest.fixture
def protocol() -> Callable[..., Protocol]:
    """Load conf/protocol/NAME.yaml, with changed fields."""
    return _load


@contextmanager
def refuses(key: str, value: object, instead: str = "", rule: str = "") -> Iterator[None]:
    """What happens inside is refused in one line, with this key, value, remedy and rule."""
    with pytest.raises(Refused) as refusal:
        yield
    error = refusal.value
    assert (error.key, error.value) == (key, value)
    assert instead in error.instead
    assert rule in error.rule
    assert "\n" not in str(error)
