"""A rollout: when it is complete, what it hands out, and how it goes on."""

import numpy as np

from sdqn_lab.agents.base import Row
from sdqn_lab.agents.rollout import Rollout
from tests.refusals import refuses

NO = np.zeros(2, bool)


def row(number):
    """Of two environments; everything in it tells its number."""
    seen = np.full((2, 3), number, np.uint8)
    return Row(seen, np.full(2, number), np.full(2, number, np.float32), NO, ~NO)


def extras(number):
    return {"value": np.full(2, 10.0 * number, np.float32)}


def filled(num_steps, rows):
    rollout = Rollout(num_steps)
    for number in range(rows):
        rollout.append(row(number), extras(number))
    return rollout


def numbers(rollout):
    """What each column says of the number of its rows."""
    columns = rollout.columns()
    assert columns["observations"].shape[1:] == (2, 3)
    assert (columns["value"] == 10 * columns["actions"]).all()
    assert (columns["observations"][..., 0] == columns["actions"]).all()
    return columns["actions"][:, 0].tolist()


def test_complete_once_the_row_after_the_last_is_there():
    assert [filled(3, rows).complete for rows in range(5)] == [False] * 3 + [False, True]


def test_hands_out_its_rows_and_the_one_after_which_begins_the_next():
    rollout = filled(3, 4)
    assert numbers(rollout) == [0, 1, 2, 3]
    rollout.advance()
    assert not rollout.complete
    for number in (4, 5, 6):
        rollout.append(row(number), extras(number))
    assert numbers(rollout) == [3, 4, 5, 6]


def test_closing_adds_a_row_that_is_no_transition_but_has_a_value():
    rollout = filled(3, 2)
    rollout.close(np.full((2, 3), 7, np.uint8), extras(7))
    assert not rollout.complete
    rollout.append(row(9), extras(9))
    columns = rollout.columns()
    assert columns["valid"][:, 0].tolist() == [True, True, False, True]
    assert columns["value"][:, 0].tolist() == [0, 10, 70, 90]
    assert columns["observations"][2].tolist() == [[7] * 3] * 2
    assert not columns["terminal"].any()


def test_closed_at_its_end_it_takes_the_first_row_of_the_next_iteration_before_it_is_learned():
    rollout = filled(2, 2)
    rollout.close(np.full((2, 3), 7, np.uint8), extras(7))
    rollout.append(row(8), extras(8))
    assert rollout.columns()["value"][:, 0].tolist() == [0, 10, 70]
    rollout.advance()
    assert not rollout.complete
    rollout.append(row(9), extras(9))
    assert rollout.columns()["value"][:, 0].tolist() == [70, 80, 90]


def test_a_rollout_of_one_step_can_be_complete_twice():
    rollout = filled(1, 3)
    for first in ([0, 1], [1, 2]):
        assert rollout.complete
        assert numbers(rollout) == first
        rollout.advance()
    assert not rollout.complete


def test_a_loaded_state_goes_on_alike():
    rollout, other = filled(3, 2), Rollout(3)
    other.load_state_dict(rollout.state_dict())
    for each in (rollout, other):
        for number in (2, 3):
            each.append(row(number), extras(number))
    ours, theirs = rollout.columns(), other.columns()
    assert list(ours) == list(theirs)
    assert all((ours[k] == theirs[k]).all() and ours[k].dtype == theirs[k].dtype for k in ours)
    fresh = Rollout(3)
    fresh.load_state_dict(Rollout(3).state_dict())
    assert fresh.rows == 0


def test_rows_with_other_extras_and_no_steps_are_refused():
    with refuses("columns", "observations, actions, rewards, terminal, valid", rule="value"):
        filled(3, 1).append(row(1), {})
    with refuses("num_steps", 0, rule=">= 1"):
        Rollout(0)
