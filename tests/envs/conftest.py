"""The protocols of conf/protocol, for the environments' tests."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from sdqn_lab.envs.base import Protocol

PROTOCOLS = Path(__file__).parents[2] / "conf" / "protocol"


def _load(name: str, **changes: object) -> Protocol:
    fields = yaml.safe_load((PROTOCOLS / f"{name}.yaml").read_text())
    return dataclasses.replace(Protocol(**fields), **changes)


@pytest.fixture
def protocol() -> Callable[..., Protocol]:
    """Load conf/protocol/NAME.yaml, with changed fields."""
    return _load
