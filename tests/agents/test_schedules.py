"""The linear schedule at its corners and between them."""

import math
from itertools import pairwise

import pytest

from sdqn_lab.agents.schedules import LinearSchedule
from tests.refusals import refuses


def test_begin_middle_end_and_after():
    epsilon = LinearSchedule(begin=1.0, end=0.0, decay_steps=1000)
    assert [epsilon(step) for step in (0, 250, 500, 1000, 1001, 10**9)] == [1, 0.75, 0.5, 0, 0, 0]


def test_end_is_met_exactly():
    epsilon = LinearSchedule(begin=1.0, end=0.05, decay_steps=1_000_000)
    assert epsilon(1_000_000) == 0.05
    assert epsilon(999_999) > 0.05


def test_every_step_of_the_decay_differs_from_the_last():
    epsilon = LinearSchedule(begin=1.0, end=0.05, decay_steps=317)
    assert all(before > after for before, after in pairwise(map(epsilon, range(318))))


def test_it_may_rise():
    beta = LinearSchedule(begin=0.0, end=1.0, decay_steps=4)
    assert [beta(step) for step in range(6)] == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]


@pytest.mark.parametrize(
    ("arguments", "key", "value"),
    [
        ((1.0, 0.1, 0), "decay_steps", 0),
        ((math.nan, 0.1, 5), "begin", math.nan),
        ((1.0, math.inf, 5), "end", math.inf),
    ],
)
def test_bad_arguments_are_named(arguments, key, value):
    with refuses(key, value):
        LinearSchedule(*arguments)
