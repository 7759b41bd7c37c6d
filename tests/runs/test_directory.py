"""A run directory from anywhere is data: reading it waits for nobody and fills no memory."""

import os
import socket
from itertools import pairwise
from pathlib import Path

import pytest

from sdqn_lab.runs.directory import OWN, TRACKER_LOCK, BusyError, RunDirectory
from sdqn_lab.runs.files import read, read_yaml
from sdqn_lab.runs.metrics import MetricsFile, check_kept, read_metrics

BOMB = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in pairwise("abcdefg"))


@pytest.fixture
def directory(tmp_path) -> RunDirectory:
    """A run that has begun and ended."""
    directory = RunDirectory(tmp_path / "cell")
    (directory.path / "checkpoint").mkdir(parents=True)
    (directory.path / "wandb").mkdir()
    directory.update(state="pending")
    directory.begin_attempt()
    directory.metrics.write_text('{"step": 1}\n')
    directory.end_attempt("finished")
    return directory


FILES = sorted(set(OWN) - {"checkpoint", "wandb", "tensorboard"})


@pytest.mark.parametrize("name", FILES)
def test_a_pipe_in_place_of_a_file_is_refused_and_not_waited_for(directory, name):
    file = directory.path / name
    file.unlink(missing_ok=True)
    os.mkfifo(file)
    for ask in (directory.status, directory.lock().__enter__):
        with pytest.raises(ValueError, match=f"{name}: neither a file nor a folder"):
            ask()


@pytest.mark.parametrize("name", ["metrics.jsonl", "tracker.json", "checkpoint/manifest.json"])
def test_readers_that_meet_a_pipe_go_on_at_once(directory, name):
    (directory.path / name).unlink(missing_ok=True)
    os.mkfifo(directory.path / name)
    assert directory.saved_steps == 0
    if name == "metrics.jsonl":
        for reads in (
            read_metrics,
            lambda path: check_kept(path, 1, None),
            lambda p: MetricsFile(p, 1),
        ):
            with pytest.raises(ValueError, match="not a regular file"):
                reads(directory.metrics)
    if name == "tracker.json":
        with pytest.raises(ValueError, match="not a regular file"):
            directory.delivered()


def test_devices_and_sockets_are_not_read(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="not a regular file"):
        read(Path("/dev/zero"))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s")  # in the test's own folder: a socket's path must be short
        with pytest.raises(OSError, match="s"):
            read(Path("s"))
    with pytest.raises(IsADirectoryError):
        read(tmp_path)


def test_aliases_are_refused_before_anything_is_made_of_them(tmp_path):
    (tmp_path / "config.yaml").write_text(BOMB)
    with pytest.raises(ValueError, match="an alias") as caught:
        read_yaml(tmp_path / "config.yaml")
    assert str(caught.value).startswith(f"{tmp_path}/config.yaml: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["a: [b", "[" * 100_000, "a: !!python/object:os.system {}", "\0"])
def test_what_is_not_plain_yaml_is_one_line(tmp_path, text):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ValueError, match="not valid YAML") as caught:
        read_yaml(tmp_path / "config.yaml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["metrics.jsonl", "log.txt", "tracker.log"])
def test_a_run_with_a_hard_link_is_read_and_not_worked_on(directory, tmp_path, name):
    file, other = directory.path / name, tmp_path / "backup"
    file.write_text('{"step": 1}\n')
    os.link(file, other)
    assert directory.state == "finished"
    for lock in (".lock", TRACKER_LOCK):
        with pytest.raises(ValueError, match=f"{name}: a hard link"), directory.lock(lock):
            pass
    assert other.read_text() == '{"step": 1}\n'
    file.unlink()
    file.write_bytes(other.read_bytes())
    with directory.lock():
        assert directory.is_held()


def test_a_lock_is_free_again_and_asking_does_not_take_it(directory):
    assert not directory.is_held()
    with directory.lock():
        assert directory.is_held()
        with pytest.raises(BusyError), directory.lock():
            pass
        with directory.lock(TRACKER_LOCK):
            pass
    assert not directory.is_held()
