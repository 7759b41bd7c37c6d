"""How a machine is divided among cells."""

import os
from pathlib import Path

import pytest

from sdqn_lab.checks.refused import Refused
from sdqn_lab.launching import local
from sdqn_lab.launching.local import LocalLauncher
from sdqn_lab.launching.processes import slots, visible_gpus

EIGHT = set(range(8))


@pytest.fixture(autouse=True)
def eight_cpus(monkeypatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: EIGHT)


def named(shares) -> list[str | None]:
    return [share.environment.get("CUDA_VISIBLE_DEVICES") for share in shares]


def test_by_default_each_gpu_takes_one_cell():
    assert named(slots(None, ["0", "1", "2"], threads=None)) == ["0", "1", "2"]


def test_more_cells_than_gpus_go_round_robin():
    assert named(slots(5, ["3", "5"], threads=1)) == ["3", "5", "3", "5", "3"]


def test_without_a_gpu_there_is_a_cell_for_each_so_many_threads():
    assert len(slots(None, [], threads=3)) == 2
    assert len(slots(None, [], threads=1)) == 8


def test_more_threads_than_cpus_are_still_one_cell():
    assert len(slots(None, [], threads=20)) == 1


def test_without_a_gpu_and_without_a_number_of_threads_cells_go_one_by_one_on_all_cpus():
    (only,) = slots(None, [], threads=None)
    assert only.cpus is None


def test_on_the_cpu_no_gpu_is_named():
    assert named(slots(2, [], threads=1)) == [None, None]


@pytest.mark.parametrize("processes", [2, 3, 8])
def test_cells_share_all_cpus_out_and_none_twice(processes):
    shares = [share.cpus for share in slots(processes, [], threads=None)]
    assert set().union(*shares) == EIGHT
    assert sum(map(len, shares)) == 8
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_more_cells_than_cpus_get_one_cpu_each_and_all_are_used():
    shares = [share.cpus for share in slots(11, [], threads=None)]
    assert {len(share) for share in shares} == {1}
    assert set().union(*shares) == EIGHT


def test_a_number_of_threads_leaves_all_cpus_to_each_cell():
    assert [share.cpus for share in slots(3, [], threads=2)] == [None] * 3


@pytest.mark.parametrize(
    ("named", "count", "expected"),
    [
        (None, 2, ["0", "1"]),
        ("3,5", 2, ["3", "5"]),
        ("GPU-aa,GPU-bb", 2, ["GPU-aa", "GPU-bb"]),
        ("0,-1,2", 1, ["0"]),
        ("", 0, []),
        (None, 0, []),
    ],
)
def test_the_gpus_are_those_that_this_process_may_use(monkeypatch, named, count, expected):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if named is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    monkeypatch.setattr("torch.cuda.device_count", lambda: count)
    assert visible_gpus() == expected


@pytest.mark.parametrize(
    ("device", "gpus", "expected"),
    [
        ("auto", None, ["0", "1", "2"]),
        ("cuda", 2, ["0", "1"]),
        ("auto", 0, [None] * 8),
        ("cpu", None, [None] * 8),
        ("cuda:1", None, [None] * 8),
    ],
)
def test_cells_are_spread_over_gpus_unless_their_device_says_otherwise(
    monkeypatch, device, gpus, expected
):
    monkeypatch.setattr(local, "visible_gpus", lambda: ["0", "1", "2"])
    Path("config.yaml").write_text(f"device: {device}\nthreads: 1\n")
    assert named(LocalLauncher(gpus=gpus).shares(Path())) == expected


def test_more_gpus_than_there_are_is_refused_with_their_number(monkeypatch):
    monkeypatch.setattr(local, "visible_gpus", lambda: ["0", "1"])
    with pytest.raises(Refused) as refused:
        LocalLauncher(gpus=3)
    error = refused.value
    assert (error.key, error.value, error.instead) == ("gpus", 3, "2")
    assert LocalLauncher(gpus=2).settings["gpus"] == 2


@pytest.mark.parametrize("wrong", [{"processes": 0}, {"gpus": -1}])
def test_a_number_out_of_its_range_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        LocalLauncher(**wrong)
