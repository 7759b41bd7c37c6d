"""What a job makes of a signal, by what the controller says of the job."""

import signal
import time
from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest

from sdqn_lab.launching import queue, task
from sdqn_lab.launching.task import EARLY_SIGNALS, StopCondition

HOUR = 3600.0
DELAY = 120.0


def info(seconds_left: float, state: str = "RUNNING", preempted: str = "None") -> dict[str, str]:
    """What `scontrol show job` says."""
    end = datetime.now() + timedelta(seconds=seconds_left)
    return {"EndTime": end.isoformat(), "PreemptTime": preempted, "JobState": state}


@pytest.fixture
def stop() -> Iterator[StopCondition]:
    given = StopCondition("7_1", HOUR, DELAY)
    with given.listening():
        yield given


def answer(monkeypatch: pytest.MonkeyPatch, *answers: dict[str, str] | Exception) -> None:
    """Let the controller give these answers, the last one for ever."""
    left = list(answers)

    def job_info(job: str) -> dict[str, str]:
        assert job == "7_1"
        now = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(now, Exception):
            raise now
        return now

    monkeypatch.setattr(queue, "job_info", job_info)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


def test_without_a_signal_nothing_is_asked_for(stop: StopCondition) -> None:
    assert not stop.requested


def test_usr2_in_the_middle_of_a_job_is_a_preemption_and_stops_at_once(
    stop: StopCondition, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(monkeypatch, info(HOUR / 2))
    signal.raise_signal(signal.SIGUSR2)
    assert stop.requested
    assert stop.cause() == "preemption"


def test_usr2_near_the_limit_is_a_preemption_if_the_controller_says_so(
    stop: StopCondition, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(monkeypatch, info(DELAY, preempted="2026-01-01T00:00:00"))
    signal.raise_signal(signal.SIGUSR2)
    assert stop.requested
    assert stop.cause() == "preemption"


def test_usr2_that_comes_early_lets_cells_go_on_until_the_delay_before_the_limit(
    stop: StopCondition, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(monkeypatch, info(DELAY + 30))
    signal.raise_signal(signal.SIGUSR2)
    assert not stop.requested
    later = time.time() + 31
    monkeypatch.setattr(time, "time", lambda: later)
    assert stop.requested
    assert stop.cause() == "time limit"


def test_a_silent_controller_leaves_the_job_to_its_own_clock(
    stop: StopCondition, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(monkeypatch, queue.SlurmError("down"))
    signal.raise_signal(signal.SIGUSR2)
    assert stop.requested
    assert stop.cause() == "preemption"


@pytest.mark.parametrize("early", [False, True], ids=["alone", "after an early USR2"])
@pytest.mark.parametrize(
    ("state", "cause"), [("CANCELLED", "cancelled"), ("RUNNING", "preemption")]
)
def test_term_stops_at_once_and_a_cancelled_job_never_counts_as_out_of_time(
    stop: StopCondition, monkeypatch: pytest.MonkeyPatch, early: bool, state: str, cause: str
) -> None:
    answer(monkeypatch, info(DELAY + 30), info(DELAY + 20, state))
    if early:
        signal.raise_signal(signal.SIGUSR2)
        assert not stop.requested
    else:
        queue.job_info("7_1")
    signal.raise_signal(signal.SIGTERM)
    assert stop.requested
    assert stop.cause() == cause


def test_a_preemption_is_recognised_though_the_controller_answers_late(
    stop: StopCondition, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(monkeypatch, queue.SlurmError("Socket timed out"), info(HOUR / 2))
    signal.raise_signal(signal.SIGTERM)
    assert stop.requested
    assert stop.cause() == "preemption"


def test_a_controller_that_never_answers_ends_the_job(
    stop: StopCondition, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(monkeypatch, queue.SlurmError("down"))
    monkeypatch.setattr(task, "CONTROLLER_TIMEOUT_SECONDS", 0.0)
    signal.raise_signal(signal.SIGTERM)
    assert stop.cause() == "cancelled"


@pytest.mark.parametrize("number", EARLY_SIGNALS)
def test_a_signal_that_came_before_anyone_listened_is_heard(number: signal.Signals) -> None:
    stop = StopCondition("7_1", HOUR, DELAY)
    signal.pthread_sigmask(signal.SIG_BLOCK, EARLY_SIGNALS)
    signal.raise_signal(number)  # to this thread: the others of a test worker do not block it
    with stop.listening():
        assert stop.signal == number


def at(monkeypatch: pytest.MonkeyPatch, seconds_from_now: float) -> None:
    """Let the clock show another time."""
    there = time.time() + seconds_from_now
    monkeypatch.setattr(time, "time", lambda: there)


def test_a_time_limit_that_nobody_announces_is_kept_by_the_clock(
    stop: StopCondition, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(monkeypatch, queue.SlurmError("down"))
    at(monkeypatch, HOUR - DELAY - 60)
    assert not stop.requested
    at(monkeypatch, 61)
    assert stop.requested
    assert stop.cause() == "time limit"


def test_the_clock_goes_by_the_end_that_the_controller_tells_at_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answer(monkeypatch, info(DELAY + 100))  # begun long ago, by slow loading
    stop = StopCondition("7_1", HOUR, DELAY)
    assert not stop.requested
    at(monkeypatch, 101)
    assert stop.requested


def test_a_limit_that_was_extended_does_not_stop_and_a_preemption_after_it_does(
    stop: StopCondition, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(monkeypatch, info(3 * HOUR))
    at(monkeypatch, HOUR)
    assert not stop.requested
    signal.raise_signal(signal.SIGUSR2)
    assert stop.requested
    assert stop.cause() == "preemption"
