"""TD error and losses against hand arithmetic, those of quantiles also against the originals."""

from math import e, log, pi
from pathlib import Path

import numpy as np
import pytest
import torch

from sdqn_lab.agents.losses import (
    categorical,
    clipped_value_loss,
    gaussian,
    huber,
    mse,
    normalized,
    of_actions,
    ppo_policy_loss,
    quantile_huber,
    quantile_targets,
    td_error,
)
from tests.golden import cases, load, tensor

GOLDEN_PPO = sorted((Path(__file__).parents[1] / "golden").glob("ppo_*.npz"))

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


# Policies


@pytest.mark.parametrize("path", GOLDEN_PPO, ids=lambda path: path.stem)
def test_losses_and_gradients_of_ppo_are_the_originals(path):
    golden = {name: value for name, value in np.load(path).items() if name != "made_by"}
    of = {k: torch.from_numpy(v) for k, v in golden.items() if v.ndim}
    values = of["new_values"].requires_grad_()
    names = ("logits",) if "logits" in of else ("mean", "logstd")
    parts = {name: of[name].requires_grad_() for name in names}
    outputs = torch.cat([part.expand(len(values), -1) for part in parts.values()], dim=1)
    clip, returns = float(golden["clip_coef"]), of["returns"]
    log_prob, entropy = (categorical if "logits" in of else gaussian)(outputs, of["actions"])
    advantages = normalized(of["advantages"]) if golden["norm_adv"] else of["advantages"]
    policy = ppo_policy_loss(log_prob, of["old_logprob"], advantages, clip)
    if golden["clip_vloss"]:
        value = clipped_value_loss(values, of["old_values"], returns, clip)
    else:
        value = 0.5 * mse(values - returns)
    loss = policy + float(golden["vf_coef"]) * value - float(golden["ent_coef"]) * entropy.mean()
    loss.backward()
    found = {
        **{"new_logprob": log_prob, "entropy": entropy, "policy_loss": policy},
        **{"value_loss": value, "entropy_loss": entropy.mean(), "loss": loss},
        **{f"dloss_d{name}": part.grad for name, part in parts.items()},
        **{"dloss_dnew_values": values.grad},
    }
    for name, ours in found.items():
        np.testing.assert_allclose(ours.detach(), golden[name], rtol=0, atol=5e-6, err_msg=name)


def test_log_probability_and_entropy_by_hand():
    # softmax(0, log 3) = (1/4, 3/4)
    logits = torch.tensor([[0.0, log(3.0)], [5.0, 5.0]], dtype=torch.float64)
    log_prob, entropy = categorical(logits, torch.tensor([1, 0]))
    assert log_prob.tolist() == pytest.approx([log(0.75), log(0.5)])
    assert entropy.tolist() == pytest.approx([-0.25 * log(0.25) - 0.75 * log(0.75), log(2)])


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [
        (1.0, 2.0, -2.0, -2.0),
        # Moved far enough: the clip's value, and no gradient.
        (1.5, 2.0, -2.2, 0.0),
        (0.5, -2.0, 1.8, 0.0),
        # Moved in the wrong direction: the whole way back counts.
        (0.5, 2.0, -1.0, -1.0),
        (1.5, -2.0, 3.0, 3.0),
    ],
)
def test_the_clip_of_ppo_holds_in_the_direction_of_the_advantage_alone(
    ratio, advantage, loss, slope
):
    log_prob = torch.tensor([log(ratio) - 1.0], dtype=torch.float64, requires_grad=True)
    old, advantages = (torch.tensor([x], dtype=torch.float64) for x in (-1.0, advantage))
    found = ppo_policy_loss(log_prob, old, advantages, 0.1)
    found.backward()
    assert (found.item(), log_prob.grad.item()) == pytest.approx((loss, slope))


@pytest.mark.parametrize(
    ("value", "returned", "loss", "slope"),
    [
        (1.1, 3.0, 0.5 * 1.9**2, -1.9),  # within the range
        (2.0, 3.0, 0.5 * 1.8**2, 0.0),  # moved by 0.2 at most: the larger error, no gradient
        (2.0, 0.0, 0.5 * 2.0**2, 2.0),  # away from the return: the whole error
    ],
)
def test_values_move_by_the_clip_range_at_most(value, returned, loss, slope):
    values = torch.tensor([value], dtype=torch.float64, requires_grad=True)
    old, returns = (torch.tensor([x], dtype=torch.float64) for x in (1.0, returned))
    found = clipped_value_loss(values, old, returns, 0.2)
    found.backward()
    assert (found.item(), values.grad.item()) == pytest.approx((loss, slope))


def test_advantages_are_normalized_by_the_unbiased_deviation():
    assert normalized(torch.tensor([1.0, 3.0])).tolist() == pytest.approx([-(0.5**0.5), 0.5**0.5])
    assert normalized(torch.tensor([2.0, 2.0])).tolist() == [0.0, 0.0]
    assert normalized(torch.tensor([7.0])).tolist() == [7.0]


def test_the_density_and_entropy_of_a_normal_distribution_by_hand():
    # Means 1 and 0, deviations 1 and 2; the action lies 0 and 1 deviations away.
    outputs = torch.tensor([[1.0, 0.0, 0.0, log(2.0)]])
    log_prob, entropy = gaussian(outputs, torch.tensor([[1.0, 2.0]]))
    assert log_prob.item() == pytest.approx(-log(2 * pi) - 0.5 - log(2.0))
    assert entropy.item() == pytest.approx(log(2 * pi * e) + log(2.0))


def test_log_densities_are_summed_over_numbers_and_equal_torchs_distribution():
    rng = torch.Generator().manual_seed(0)
    mean, log_std, actions = (torch.randn(6, 4, generator=rng) for _ in range(3))
    log_prob, entropy = gaussian(torch.cat([mean, log_std], dim=1), actions)
    normal = torch.distributions.Normal(mean, log_std.exp())
    assert log_prob.shape == entropy.shape == (6,)
    torch.testing.assert_close(log_prob, normal.log_prob(actions).sum(1))
    torch.testing.assert_close(entropy, normal.entropy().sum(1))


def test_a_narrow_distribution_has_a_density_above_one_and_a_negative_entropy():
    log_prob, entropy = gaussian(torch.tensor([[0.0, log(0.01)]]), torch.zeros(1, 1))
    assert log_prob.item() == pytest.approx(log(100) - 0.5 * log(2 * pi))
    assert entropy.item() < 0
