"""A SLURM of their own for the tests of this folder.

One cluster of each kind serves all tests of a worker; after each test its jobs are gone, so a test
finds the cluster as it was. Job numbers go on from test to test.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster

HERE = Path(__file__).parent
CLUSTERS = ("cluster", "accounted_cluster")


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One worker runs all of them: side by side they would wait for each other's CPUs."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.xdist_group("slurm"))


def demand_slurm() -> None:
    """Skips where there is no SLURM; fails there if SDQN_LAB_REQUIRE_SLURM is set, as in CI."""
    reason = Cluster.missing()
    if reason is None:
        return
    if os.environ.get("SDQN_LAB_REQUIRE_SLURM"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def slurm_programs() -> None:
    demand_slurm()


@pytest.fixture(scope="session")
def cluster(slurm_programs: None) -> Iterator[Cluster]:
    """Without accounting: sacct has no answer."""
    with Cluster() as up:
        yield up


@pytest.fixture(scope="session")
def accounted_cluster(slurm_programs: None) -> Iterator[Cluster]:
    with Cluster(accounting=True) as up:
        yield up


@pytest.fixture(autouse=True)
def left_clear(request: pytest.FixtureRequest) -> Iterator[None]:
    used = [request.getfixturevalue(name) for name in CLUSTERS if name in request.fixturenames]
    yield
    for each in used:
        each.clear()
