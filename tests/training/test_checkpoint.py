"""A checkpoint is whole or absent, and damage is named."""

import hashlib
import json

import numpy as np
import pytest
import torch
import zstandard

from sdqn_lab.agents.replay import Replay
from sdqn_lab.training import checkpoint
from sdqn_lab.training.checkpoint import Checkpoint, CheckpointError, pack, unpack


def filled(rows: int, capacity: int = 60) -> Replay:
    replay = Replay(capacity, 2, (1, 3, 3), 2)
    grow(replay, rows)
    return replay


def grow(replay: Replay, rows: int) -> None:
    rng = np.random.default_rng(replay.rows_written)
    nothing, everything = np.zeros(2, bool), np.ones(2, bool)
    for _ in range(rows):
        frames = rng.integers(0, 255, (2, 1, 3, 3), dtype=np.uint8)
        replay.append(frames, np.array([1, 2]), rng.random(2), terminal=nothing, valid=everything)


def restored(folder, capacity: int = 60) -> tuple[Replay, dict]:
    saved = Checkpoint(folder)
    saved.read()
    replay = Replay(capacity, 2, (1, 3, 3), 2)
    saved.load_memory(replay)
    return replay, saved.load_state()


def contents(replay: Replay) -> dict[str, list]:
    arrays = replay.export_rows(replay.oldest_row, replay.rows_written)
    return {key: array.tolist() for key, array in arrays.items()}


def test_state_comes_back_with_its_types():
    tree = {
        "weights": torch.arange(6.0).reshape(2, 3),
        "actions": np.array([[1, 2]], np.uint8),
        "counters": {"steps": 3, "best": None, "name": "x", "rate": 0.1},
        "list": [1, (2.5, torch.tensor(3, dtype=torch.int64))],
        5: "integer keys stay integers",
        "empty": np.zeros((0, 4), np.uint8),
    }
    back = unpack(pack(tree))
    assert torch.equal(back["weights"], tree["weights"])
    assert back["actions"].dtype == np.uint8
    assert back["counters"] == tree["counters"]
    assert back["list"][1][0] == 2.5
    assert isinstance(back["list"][1], tuple)
    assert back[5] == tree[5]
    assert back["empty"].shape == (0, 4)


def test_numbers_of_numpy_come_back_as_pythons_and_what_cannot_be_saved_is_named():
    back = unpack(pack({"updates": np.int64(3), "rate": np.float32(0.5), "done": np.bool_(True)}))
    assert back == {"updates": 3, "rate": 0.5, "done": True}
    assert [type(value) for value in back.values()] == [int, float, bool]
    with pytest.raises(TypeError, match="holds a set"):
        pack({"seen": {1, 2}})


def test_the_state_of_a_random_generator_comes_back_exactly():
    state = np.random.default_rng(3).bit_generator.state
    assert unpack(pack(state)) == state


def test_each_checkpoint_adds_only_the_rows_since_the_last(tmp_path):
    saved, replay = Checkpoint(tmp_path), filled(10)
    saved.save({}, replay, {})
    first = {p.name for p in tmp_path.glob("replay-*")}
    grow(replay, 5)
    saved.save({}, replay, {})
    second = {p.name for p in tmp_path.glob("replay-*")}
    assert first < second
    assert len(second - first) == 1
    assert contents(restored(tmp_path)[0]) == contents(replay)


def test_rows_that_left_the_ring_leave_the_checkpoint(tmp_path):
    saved, replay = Checkpoint(tmp_path), filled(10)
    for _ in range(12):
        saved.save({"x": 1}, replay, {})
        grow(replay, 7)
    saved.save({"x": 1}, replay, {})
    assert len(list(tmp_path.glob("replay-*"))) <= 30 // 7 + 2
    back, state = restored(tmp_path)
    assert state == {"x": 1}
    assert contents(back) == contents(replay)


def test_a_resumed_checkpoint_goes_on_adding(tmp_path):
    saved, replay = Checkpoint(tmp_path), filled(10)
    saved.save({}, replay, {})
    again = Checkpoint(tmp_path)
    again.read()
    grow(replay, 6)
    again.save({}, replay, {"steps": 6})
    assert Checkpoint(tmp_path).read() == {"steps": 6}
    assert contents(restored(tmp_path)[0]) == contents(replay)


@pytest.mark.parametrize("kind", ["state", "replay"])
@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (lambda p: p.write_bytes(p.read_bytes()[:-1]), "cut short"),
        (lambda p: p.write_bytes(b"\0" + p.read_bytes()[1:]), "damaged"),
        (lambda p: p.unlink(), "missing"),
    ],
    ids=["truncated", "changed", "missing"],
)
def test_damage_is_found_and_the_file_named(kind, damage, word, tmp_path):
    Checkpoint(tmp_path).save({"w": torch.ones(100)}, filled(10), {})
    (file,) = tmp_path.glob(f"{kind}-*")
    damage(file)
    with pytest.raises(CheckpointError, match=f"{file.name}.*{word}"):
        Checkpoint(tmp_path).read()


def test_another_version_is_refused(tmp_path):
    Checkpoint(tmp_path).save({}, filled(3), {})
    manifest = tmp_path / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "version": 99}))
    with pytest.raises(CheckpointError, match="version 99, this program reads 2"):
        Checkpoint(tmp_path).read()


@pytest.mark.parametrize("failing", ["save_tensors", "save_arrays", "write_json"])
def test_a_crash_in_the_middle_of_writing_leaves_the_last_good_one(failing, tmp_path, monkeypatch):
    saved, replay = Checkpoint(tmp_path), filled(10)
    saved.save({"good": 1}, replay, {})
    before = contents(replay)
    grow(replay, 4)

    def crash(*args):
        (tmp_path / "state-2.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, failing, crash)
    with pytest.raises(KeyboardInterrupt):
        saved.save({"good": 2}, replay, {})
    back, state = restored(tmp_path)
    assert state == {"good": 1}
    assert contents(back) == before


def test_a_full_disk_is_named_and_the_last_good_one_kept(tmp_path, monkeypatch):
    saved, replay = Checkpoint(tmp_path), filled(10)
    saved.save({"good": 1}, replay, {})

    def full(path, value):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_json", full)
    with pytest.raises(CheckpointError, match=r"cannot save a checkpoint: .*No space left"):
        saved.save({"good": 2}, replay, {})
    assert restored(tmp_path)[1] == {"good": 1}
    assert len(list(tmp_path.glob("state-*"))) == 1


def test_a_first_save_that_was_cut_off_is_no_damage(tmp_path, monkeypatch):
    replay = filled(10)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoint, "save_arrays", crash)
        Checkpoint(tmp_path).save({}, replay, {})
    assert (tmp_path / "state-1.safetensors").exists()
    again = Checkpoint(tmp_path)
    assert again.read() == {}
    again.save({"x": 1}, replay, {"steps": 5})
    assert Checkpoint(tmp_path).read() == {"steps": 5}
    assert contents(restored(tmp_path)[0]) == contents(replay)


def crash(*args):
    raise KeyboardInterrupt


def test_files_whose_manifest_is_lost_are_damage(tmp_path):
    Checkpoint(tmp_path).save({}, filled(10), {})
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match=r"manifest\.json: missing, and replay-1-0\.zst"):
        Checkpoint(tmp_path).read()


@pytest.mark.parametrize("known", [True, False], ids=["size known", "size hidden"])
def test_replay_is_not_unpacked_beyond_what_it_can_hold(known, tmp_path, monkeypatch):
    """Two gigabytes of zeros in 200 kB, with a manifest that agrees."""
    Checkpoint(tmp_path).save({}, filled(10), {})
    (file,) = tmp_path.glob("replay-*")
    size, piece = 2 << 30, bytes(16 << 20)
    packer = zstandard.ZstdCompressor().compressobj(size=size if known else -1)
    packed = b"".join(packer.compress(piece) for _ in range(size // len(piece))) + packer.flush()
    file.write_bytes(packed)
    manifest = tmp_path / "manifest.json"
    content = json.loads(manifest.read_text())
    content["segments"][0] |= {
        "bytes": len(packed),
        "sha256": hashlib.sha256(packed).hexdigest(),
    }
    manifest.write_text(json.dumps(content))
    saved = Checkpoint(tmp_path)
    saved.read()
    monkeypatch.setattr(zstandard, "decompress", lambda *args, **more: pytest.fail("unpacked"))
    with pytest.raises(CheckpointError, match=f"{file.name}: unpacks to .* more than"):
        saved.load_memory(Replay(60, 2, (1, 3, 3), 2))


def test_dropping_leaves_nothing(tmp_path):
    folder = tmp_path / "checkpoint"
    saved = Checkpoint(folder)
    saved.save({}, filled(3), {})
    saved.drop()
    assert not folder.exists()
    saved.drop()
