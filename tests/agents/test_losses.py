"""TD error and losses against hand arithmetic."""

import pytest
import torch

from sdqn_lab.agents.losses import huber, mse, td_error

Q = torch.tensor([[1.0, 2.0, 3.0]])
TARGET = torch.tensor([[10.0, 40.0, 20.0]])
ONLINE = torch.tensor([[7.0, 1.0, 5.0]])


def error(*, returns=0.5, discount=0.5, online=None, target=TARGET, action=1, q=Q):
    return td_error(
        q,
        torch.tensor([action]),
        torch.tensor([returns]),
        torch.tensor([discount]),
        next_q_online=online,
        next_q_target=target,
    )


def test_plain_takes_the_targets_own_maximum():
    assert error().item() == 0.5 + 0.5 * 40.0 - 2.0


def test_double_judges_the_online_networks_choice_by_the_target():
    assert error(online=ONLINE).item() == 0.5 + 0.5 * 10.0 - 2.0


def test_terminal_transition_learns_the_return_alone():
    assert error(discount=0.0).item() == 0.5 - 2.0


def test_truncated_transition_still_bootstraps():
    # Cut after two of three steps at gamma 0.5: discount 0.25, not 0.
    assert error(discount=0.25, online=ONLINE).item() == 0.5 + 0.25 * 10.0 - 2.0


def test_equal_values_take_the_first_action():
    tied = torch.tensor([[3.0, 5.0, 5.0]])
    assert error(online=tied, discount=1.0, returns=0.0).item() == 40.0 - 2.0


def test_gradient_reaches_only_the_value_of_the_action_taken():
    q, target, online = (x.clone().requires_grad_() for x in (Q, TARGET, ONLINE))
    error(q=q, target=target, online=online, action=2).sum().backward()
    assert q.grad is not None
    assert q.grad.tolist() == [[0.0, 0.0, -1.0]]
    assert target.grad is None
    assert online.grad is None


def test_mse_is_the_mean_of_squares_without_a_half():
    assert mse(torch.tensor([1.0, -3.0])).item() == 5.0


def test_huber_is_half_the_square_inside_and_linear_outside():
    values = torch.tensor([0.5, -0.5, 1.0, 3.0, -3.0])
    # 0.125, 0.125, 0.5, 2.5, 2.5
    assert huber(values).item() == pytest.approx(5.75 / 5)


def test_huber_gradient_is_the_clipped_error():
    values = torch.tensor([-3.0, -1.0, -0.25, 0.0, 0.25, 1.0, 3.0], requires_grad=True)
    (7 * huber(values)).backward()
    assert values.grad is not None
    assert values.grad.tolist() == [-1.0, -1.0, -0.25, 0.0, 0.25, 1.0, 1.0]
