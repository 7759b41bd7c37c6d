"""A SLURM of their own for the tests of this folder.

One cluster of each kind serves all tests. Job numbers go on from test to test.
"""

import os
from collections.abc import Iterator

import pytest

from tests.slurm.cluster import Cluster


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
def plain(slurm_programs: None) -> Iterator[Cluster]:
    """Without accounting: sacct has no answer."""
    with Cluster() as up:
        yield up


@pytest.fixture(scope="session")
def lab(slurm_programs: None) -> Iterator[Cluster]:
    """With accounting; cleared at the end only, for sweeps go on in it from test to test."""
    with Cluster(accounting=True) as up:
        yield up


@pytest.fixture(scope="session")
def blunt(slurm_programs: None) -> Iterator[Cluster]:
    """Without accounting, and a preemption is announced by SIGTERM alone."""
    with Cluster(settings={"SlurmctldParameters": "idle_on_node_suspend"}) as up:
        yield up


@pytest.fixture
def cluster(plain: Cluster) -> Iterator[Cluster]:
    """The one without accounting, with nothing in its queue."""
    yield plain
    plain.clear()
