"""TD error and losses against hand arithmetic, those of quantiles also against the originals."""

import pytest
import torch

from sdqn_lab.agents.losses import (
    huber,
    mse,
    of_actions,
    quantile_huber,
    quantile_targets,
    td_error,
)
from tests.golden import cases, load, tensor

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


def test_quantile_huber_by_hand():
    current = torch.tensor([[0.0, 4.0]], requires_grad=True)
    loss = quantile_huber(current, torch.tensor([[0.5, 3.0]]), torch.tensor([[0.25, 0.75]]))
    # Errors 0.5 and 3 at tau 1/4, -3.5 and -1 at 3/4: (0.125 + 2.5) / 8 + (3 + 0.5) / 8.
    assert loss.tolist() == [0.765625]
    loss.sum().backward()
    assert current.grad is not None
    assert current.grad.tolist() == [[-0.1875, 0.25]]


def test_without_a_corner_quantile_errors_count_absolutely():
    current, target = torch.tensor([[1.0]]), torch.tensor([[0.0, 3.0, 1.0]])
    # 1/4 * 1 from above, 3/4 * 2 from below, over three samples.
    loss = quantile_huber(current, target, torch.tensor([[0.75]]), 0.0)
    assert loss.item() == pytest.approx(1.75 / 3)


def test_the_quantiles_of_a_sample_minimize_the_loss():
    sample = torch.arange(100.0).double()[None]
    tau = torch.tensor([[0.105, 0.505, 0.955]]).double()
    best = torch.tensor([[10.0, 50.0, 95.0]]).double()

    def loss(current):
        return quantile_huber(current, sample, tau, 0.0).item()

    moves = torch.eye(3).double()
    assert all(loss(best + sign * move) > loss(best) for move in moves for sign in (-1, 1))


@pytest.mark.parametrize("path", cases("quantile_huber_*"))
def test_quantile_huber_is_the_originals(path):
    case = load(path)
    current = tensor(case["current"]).requires_grad_()
    given = tensor(case["target"]), tensor(case["tau"]), float(case["kappa"])
    loss = quantile_huber(current, *given).mean()
    if not case["sum_over_quantiles"]:
        loss = loss / current.shape[1]
    loss.backward()
    torch.testing.assert_close(loss, tensor(case["loss"]), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(current.grad, tensor(case["dloss_dcurrent"]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("path", cases("quantile_q_learning_*"))
def test_quantile_q_learning_is_the_originals(path):
    """Theirs are (B, N, A), ours (B, A, N); theirs has one selector in plain and double form."""
    case = load(path)
    q, following, selector = (
        tensor(case[name]).transpose(1, 2) for name in ("q_tm1", "q_t", "q_t_selector")
    )
    q.requires_grad_()
    rewards = tensor(case["r_t"]), tensor(case["discount_t"])
    targets = quantile_targets(*rewards, next_online=selector, next_target=following)
    current = of_actions(q, tensor(case["a_tm1"]))
    losses = quantile_huber(current, targets, tensor(case["tau"]), float(case["kappa"]))
    losses.mean().backward()
    torch.testing.assert_close(losses, tensor(case["losses"]), rtol=1e-5, atol=1e-6)
    wanted = tensor(case["dmean_dq_tm1"]).transpose(1, 2)
    torch.testing.assert_close(q.grad, wanted, rtol=1e-5, atol=1e-6)
    if "double0" in path.stem:
        plain = quantile_targets(*rewards, next_online=None, next_target=following)
        assert torch.equal(plain, targets)


def test_the_best_next_action_has_the_largest_mean_and_the_first_of_equal_ones():
    following = torch.tensor([[[9.0, -9.0], [1.0, 2.0], [2.0, 1.0]]], requires_grad=True)
    online = torch.tensor([[[1.0, 2.0], [0.0, 0.0], [4.0, 0.0]]])
    numbers = torch.tensor([0.5]), torch.tensor([0.5])
    targets = quantile_targets(*numbers, next_online=None, next_target=following)
    assert targets.tolist() == [[1.0, 1.5]]
    assert not targets.requires_grad
    double = quantile_targets(*numbers, next_online=online, next_target=following)
    assert double.tolist() == [[1.5, 1.0]]
