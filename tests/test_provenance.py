"""A number can be led back to the code that made it."""

import subprocess
from pathlib import Path

import pytest

from sdqn_lab.runs import provenance


@pytest.fixture
def checkout(tmp_path, monkeypatch) -> Path:
    """A package in a repository of its own, one commit old."""
    root = tmp_path / "checkout"
    for name in ("sdqn_lab/a.py", "sdqn_lab/inner/b.py", "conf/c.yaml", "sweeps/d.yaml", "e.md"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("first\n")
    git(root, "init", "-q")
    git(root, "add", ".")
    git(root, "-c", "user.name=me", "-c", "user.email=me@here", "commit", "-qm", "first")
    monkeypatch.setattr(provenance, "ROOT", root.resolve())
    return root


def git(root: Path, *arguments: str) -> None:
    subprocess.run(["git", "-C", str(root), *arguments], check=True, capture_output=True)


def test_an_unchanged_checkout_is_its_commit_and_no_diff(checkout):
    code = provenance.code()
    assert len(code["git_sha"]) == 40
    assert code["git_dirty"] is False
    assert provenance.diff() == ""


@pytest.mark.parametrize(
    "name", ["sdqn_lab/a.py", "sdqn_lab/inner/b.py", "conf/c.yaml", "sweeps/d.yaml"]
)
def test_a_changed_file_changes_the_digest_and_is_in_the_diff(checkout, name):
    before = provenance.code()
    (checkout / name).write_text("second\n")
    after = provenance.code()
    assert after["code"] != before["code"]
    assert after["git_dirty"] is True
    assert "-first\n+second" in provenance.diff()
    (checkout / name).write_text("first\n")
    assert provenance.code() == before


def test_a_new_file_counts_with_its_whole_content_and_needs_no_git_add(checkout):
    before = provenance.code()["code"]
    (checkout / "sdqn_lab" / "new.py").write_text("brand new\n")
    assert provenance.code()["code"] != before
    assert "+++ b/sdqn_lab/new.py" in provenance.diff()
    assert "+brand new" in provenance.diff()


def test_a_file_that_is_gone_or_moved_changes_the_digest(checkout):
    digests = {provenance.code()["code"]}
    (checkout / "sdqn_lab" / "a.py").rename(checkout / "sdqn_lab" / "z.py")
    digests.add(provenance.code()["code"])
    (checkout / "sdqn_lab" / "z.py").unlink()
    digests.add(provenance.code()["code"])
    assert len(digests) == 3


def test_what_cannot_change_a_number_changes_nothing(checkout):
    before = provenance.code()
    (checkout / "e.md").write_text("second\n")
    (checkout / "sdqn_lab" / "__pycache__").mkdir()
    (checkout / "sdqn_lab" / "__pycache__" / "a.pyc").write_text("bytes")
    (checkout / ".git" / "info" / "exclude").write_text("__pycache__\n")
    assert provenance.code() == before


def test_outside_a_checkout_the_digest_alone_tells(checkout, monkeypatch):
    digest = provenance.code()["code"]
    (checkout / ".git").rename(checkout / "no.git")
    assert provenance.code() == {"git_sha": None, "git_dirty": None, "code": digest}
    assert provenance.diff() == ""


def test_a_foreign_repository_around_the_package_is_not_taken_for_its_own(checkout, monkeypatch):
    monkeypatch.setattr(provenance, "ROOT", (checkout / "sdqn_lab").resolve())
    assert provenance.code()["git_sha"] is None
    assert provenance.diff() == ""


def test_without_git_the_digest_alone_tells(checkout, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda program: None)
    assert provenance.code()["git_sha"] is None
    assert len(provenance.code()["code"]) == 16


def test_a_job_is_named_with_its_array_and_its_restarts(monkeypatch):
    for key in ("JOB_ID", "ARRAY_JOB_ID", "ARRAY_TASK_ID", "RESTART_COUNT"):
        monkeypatch.delenv(f"SLURM_{key}", raising=False)
    assert provenance.scheduler() == {}
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    assert provenance.scheduler() == {"slurm_job": "12", "slurm_restarts": 0}
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "11")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    assert provenance.scheduler() == {"slurm_job": "11_1", "slurm_restarts": 2}
