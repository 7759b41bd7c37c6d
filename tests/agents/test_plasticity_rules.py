"""Rules of plasticity against the numbers of the original codes, and by hand."""

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sdqn_lab.agents.plasticity_rules import MSTDP, MSTDPET, RMax, Rule, ScoreFunction
from sdqn_lab.spiking.output_neurons import OutputSpikes
from tests.golden import Case, cases, load, tensor
from tests.refusals import refuses
from tests.spiking.test_bernoulli import currents, neuron_of, patterns

NEURONS = OutputSpikes(1, 1)
NOTHING = torch.zeros(0)
"""A probability, for rules that do not ask for one."""


def spike_timing(case: Case, **taus: float) -> Rule:
    """The rule of a case, with the depression of the originals."""
    amplitudes = {"a_plus": float(case.get("a_plus", 1)), "a_minus": float(case.get("a_minus", -1))}
    settings = {**amplitudes, "same_step_depression": True, **taus}
    if str(case["rule"]) == "MSTDP":
        settings.pop("tau_eligibility")
        return MSTDP(NEURONS, **settings)
    return MSTDPET(NEURONS, **settings)


@pytest.mark.parametrize("path", cases("mstdp_bindsnet_*"))
def test_spike_timing_with_reward_at_each_step_is_bindsnets(path: Path) -> None:
    case = load(path)
    names = {"tau_plus": "tc_plus", "tau_minus": "tc_minus", "tau_eligibility": "tc_e_trace"}
    taus = {ours: float(case[theirs]) for ours, theirs in names.items()}
    pre, post = tensor(case["pre"]).double(), tensor(case["post"]).double()
    found = list(spike_timing(case, **taus).steps(pre, post, NOTHING))
    if not case["zero_lag"]:  # there a reward meets what was eligible before its own step
        found = [torch.zeros_like(found[0]), *found[:-1]]
    w = tensor(case["w0"]).double()
    for reward, eligibility, expected in zip(case["reward"], found, case["w"], strict=True):
        w = w + float(case["nu"]) * float(reward) * eligibility.sum(0).T
        w = w.clamp(float(case["wmin"]), float(case["wmax"]))
        torch.testing.assert_close(w, tensor(expected).double(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("path", cases("mstdp_spikingjelly_*"))
def test_spike_timing_with_reward_at_each_step_is_spikingjellys(path: Path) -> None:
    case = load(path)
    names = {"tau_plus": "tau_pre", "tau_minus": "tau_post", "tau_eligibility": "tau_trace"}
    taus = {ours: float(case[theirs]) for ours, theirs in names.items()}
    pre, post = (tensor(case[name]).double() for name in ("pre", "post"))
    if pre.dim() == 2:
        pre, post = pre[:, None], post[:, None]
    found = list(spike_timing(case, **taus).steps(pre, post, NOTHING))
    found = [torch.zeros_like(found[0]), *found[:-1]]
    rewards = np.broadcast_to(case["reward"].reshape(len(pre), -1), post.shape[:2])
    for reward, eligibility, expected in zip(rewards, found, case["delta_w"], strict=True):
        change = torch.tensordot(torch.tensor(reward).double(), eligibility, dims=1)
        torch.testing.assert_close(change, tensor(expected).double(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("path", cases("rmax_bindsnet_*"))
def test_r_max_with_reward_at_each_step_is_bindsnets(path: Path) -> None:
    case = load(path)
    # A trace that forgets at once: the case gives the trace of the inputs itself.
    settings = {"tau_eligibility": float(case["tc_e_trace"]), "hebb": float(case["tc_c"])}
    rule, w = RMax(NEURONS, tau_plus=1e-3, **settings), tensor(case["w0"]).double()
    sides = (tensor(case[k]).double()[:, None] for k in ("pre_trace", "post", "post_probability"))
    traces = zip(rule.steps(*sides), case["eligibility_trace"], strict=True)
    for (z, expected), reward, after in zip(traces, case["reward"], case["w"], strict=True):
        torch.testing.assert_close(z[0].T, tensor(expected).double(), rtol=1e-5, atol=1e-6)
        w = w + float(case["nu"]) * float(reward) * z[0].T
        torch.testing.assert_close(w, tensor(after).double(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("path", cases("score_function_*"))
def test_the_score_function_is_exact_for_all_spike_trains(path: Path) -> None:
    case = load(path)
    neuron, every = neuron_of(case), patterns(case)
    rule = ScoreFunction(SimpleNamespace(neuron=neuron))
    pre = tensor(case["x"])[:, None].expand(-1, every.shape[1], -1)
    x_seq = currents(case, tensor(case["W"]), every.shape[1])
    p = neuron.probabilities(x_seq, every)
    scores = rule.weights(pre, every, p)
    torch.testing.assert_close(scores, tensor(case["score"]))
    likely = tensor(case["probability"])
    torch.testing.assert_close(
        torch.einsum("n,nkf->kf", likely * tensor(case["reward"]), scores),
        tensor(case["gradient"]),
    )
    # Thresholds: the score vanishes in the mean, and is the derivative of the log-likelihood.
    of_thresholds = rule.thresholds(every, p)
    torch.testing.assert_close(
        torch.einsum("n,nk->k", likely, of_thresholds), torch.zeros(every.shape[2]).double()
    )
    theta = torch.full((every.shape[2],), neuron.v_threshold).double().requires_grad_()
    neuron.v_threshold = torch.nn.Parameter(theta.detach())
    p = neuron.probabilities(x_seq, every)
    torch.where(every == 1, p, 1 - p).log()[:, 0].sum().backward()
    torch.testing.assert_close(neuron.v_threshold.grad, of_thresholds[0])


def trains(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64).view(-1, 1, 1)


def test_a_pair_within_one_step_is_causal_unless_it_is_depressed_too() -> None:
    both, decay = trains(1.0, 0.0, 1.0), math.exp(-1 / 20)
    pair = {"a_plus": 1.0, "a_minus": -1.0}
    balanced = MSTDP(NEURONS, **pair, same_step_depression=True)
    assert [z.item() for z in balanced.steps(both, both, NOTHING)] == [0.0, 0.0, 0.0]
    causal = MSTDP(NEURONS, **pair)
    # The third step: 1 + decay^2 before, less the decay^2 that is left of the first spike behind.
    found = [z.item() for z in causal.steps(both, both, NOTHING)]
    assert found == pytest.approx([1.0, 0.0, 1.0 + decay**2 - decay**2])
    assert causal.weights(both, both, NOTHING).item() == pytest.approx(2.0)


def test_the_trace_of_mstdpet_and_of_r_max_at_the_end_is_the_decisions() -> None:
    pre, post = trains(1.0, 0.0, 0.0), trains(0.0, 1.0, 0.0)
    rule = MSTDPET(NEURONS, tau_plus=2.0, a_minus=0.0, tau_eligibility=4.0)
    expected = math.exp(-1 / 2) / 4 * math.exp(-1 / 4)
    assert rule.weights(pre, post, NOTHING).item() == pytest.approx(expected)
    p = trains(0.5, 0.25, 0.0)
    r_max = RMax(NEURONS, tau_plus=2.0, tau_eligibility=4.0, hebb=2.0)
    excess = [-0.5 / 2, 1 - 0.25 / 1.5, 0.0]
    z = 0.0
    for step, each in enumerate(excess):
        z = 0.75 * z + each * math.exp(-step / 2)
    assert r_max.weights(pre, post, p).item() == pytest.approx(z)
    of_threshold = -(0.75**2 * excess[0] + 0.75 * excess[1])
    assert r_max.thresholds(post, p).item() == pytest.approx(of_threshold)


@pytest.mark.parametrize(("name", "value"), [("tau_plus", 0.0), ("tau_minus", -1.0)])
def test_settings_out_of_their_range_are_refused(name: str, value: float) -> None:
    with refuses(name, value):
        MSTDPET(NEURONS, **{name: value})
