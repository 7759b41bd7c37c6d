"""How SLURM is asked, and what is made of its answers."""

import os

import pytest

from sdqn_lab.launching import queue
from sdqn_lab.launching.queue import SlurmError, first_error, retry
from sdqn_lab.launching.slurm import own_environment


@pytest.mark.parametrize(
    "name",
    ["SBATCH_PARTITION", "SQUEUE_FORMAT", "SACCT_FORMAT", "SCANCEL_USER", "SLURM_TIME_FORMAT"],
)
def test_a_users_preferences_change_no_question(monkeypatch, name):
    monkeypatch.setenv(name, "preferred")
    assert queue.slurm("sh", "-c", f"echo {name}=${name}") == f"{name}=\n"


@pytest.mark.parametrize("name", ["SLURM_CONF", "SLURM_JOB_ID", "PATH", "WANDB_API_KEY"])
def test_what_is_no_preference_is_kept(monkeypatch, name):
    monkeypatch.setenv(name, "/bin")
    assert queue.environment()[name] == "/bin"


def test_another_environment_lasts_for_a_moment_and_over_no_error(monkeypatch):
    monkeypatch.setenv("SBATCH_PARTITION", "preferred")
    before = dict(os.environ)
    with pytest.raises(ZeroDivisionError), own_environment({"ONLY": "this"}):
        assert dict(os.environ) == {"ONLY": "this"}
        raise ZeroDivisionError
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("note: x\nsbatch: error: no\nTry `sbatch --help`", "sbatch: error: no"),
        ("sbatch: error: first\nsbatch: error: second", "sbatch: error: first"),
        ("\n \nsomething odd\nmore of it\n", "something odd"),
        ("", ""),
    ],
)
def test_of_many_lines_the_one_that_says_what_is_wrong_is_shown(text, line):
    assert first_error(text) == line


def test_a_command_that_fails_is_described_by_that_line():
    script = "echo hint >&2; echo 'squeue: error: Invalid user' >&2; exit 1"
    with pytest.raises(SlurmError) as caught:
        queue.slurm("sh", "-c", script)
    assert str(caught.value) == "sh: squeue: error: Invalid user"


def test_a_command_that_is_not_there_is_one_line():
    with pytest.raises(SlurmError, match="no-such: no such command; is this a machine of the"):
        queue.slurm("no-such", "word")


def asked(monkeypatch, *answers: str | None, patience: float = 3600.0) -> int:
    """How often one asks whom SLURM answers so; None is what was hoped for."""
    left, count = list(answers), 0
    monkeypatch.setattr("time.sleep", lambda seconds: None)

    def ask() -> None:
        nonlocal count
        count += 1
        if answer := left.pop(0):
            raise SlurmError(answer)

    try:
        retry(ask, patience)
    except SlurmError as error:
        assert str(error) in answers
    return count


@pytest.mark.parametrize(
    "answer",
    [
        "squeue: slurm_load_jobs error: Unable to contact slurm controller (connect failure)",
        "scontrol: error: Socket timed out on send/recv operation",
        "scontrol: error: connect refused: Connection refused",
        "squeue: no answer within 60 s",
        "scontrol: Unexpected message received for job 10_6",
    ],
)
def test_a_controller_that_cannot_be_reached_is_asked_again(monkeypatch, answer):
    assert asked(monkeypatch, answer, answer, None) == 3


@pytest.mark.parametrize(
    "answer",
    [
        "scontrol: error: Invalid job id specified",
        "scontrol: Access/permission denied for job 7",
        "scontrol: Requested operation is presently disabled for job 7",
        "scontrol: no such command",
    ],
)
def test_a_refusal_is_final(monkeypatch, answer):
    assert asked(monkeypatch, answer, None) == 1


def test_patience_ends(monkeypatch):
    assert asked(monkeypatch, "Unable to contact slurm controller", None, patience=-1.0) == 1


def test_an_answer_that_makes_no_sense_is_an_error_and_no_empty_queue(monkeypatch):
    monkeypatch.setattr(queue, "slurm", lambda *arguments: "CLUSTER: other\n")
    with pytest.raises(SlurmError, match="squeue: cannot make sense of CLUSTER: other"):
        queue.jobs(["name"])
