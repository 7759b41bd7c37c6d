import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sdqn_lab.checks.refused import Refused
from sdqn_lab.networks.blocks import Block
from sdqn_lab.spiking.neuron import ALIF, IF, LIF, PLIF, Neuron, ReLU, SpikingNeuron
from sdqn_lab.spiking.norm import PopNorm
from sdqn_lab.spiking.surrogate import Atan
from tests.golden import SURROGATES, cases, load, neuron_of, tensor

SPIKING: list[Callable[..., SpikingNeuron]] = [IF, LIF, PLIF, ALIF]
each_spiking = pytest.mark.parametrize("make", SPIKING)


def drive(*values: float) -> Tensor:
    """A current of one unit in a batch of one, (T, 1, 1)."""
    return torch.tensor(values, dtype=torch.float64).view(-1, 1, 1)


def membranes(neuron: SpikingNeuron, x_seq: Tensor) -> tuple[Tensor, Tensor]:
    """Charged and reset membranes of every step."""
    v = torch.full_like(x_seq[0], neuron.v_reset)
    charged, after = [], []
    for x in x_seq:
        charged.append(neuron.charge(x, v))
        _, v = neuron.step(x, v)
        after.append(v)
    return torch.stack(charged), torch.stack(after)


ORIGINAL = [*cases("neuron_*_vr0"), *cases("neuron_*_const*")]
ORIGINAL_OTHER_RESET = cases("neuron_*_vr-0.25")


@pytest.mark.parametrize("path", ORIGINAL)
def test_spikes_and_gradient_are_the_originals(path: Path) -> None:
    case = load(path)
    x = tensor(case["x"]).requires_grad_()
    spikes = neuron_of(case)(x)
    torch.testing.assert_close(spikes.detach(), tensor(case["spike"]), rtol=0, atol=0)
    (tensor(case["w"]) * spikes).sum().backward()
    assert x.grad is not None
    expected = tensor(case["dloss_dx"])
    assert (x.grad - expected).norm() <= 1e-4 * expected.norm()
    torch.testing.assert_close(x.grad, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("path", ORIGINAL)
def test_membranes_before_and_after_firing_are_the_originals(path: Path) -> None:
    case = load(path)
    neuron = neuron_of(case)
    assert isinstance(neuron, SpikingNeuron)
    charged, after = membranes(neuron, tensor(case["x"]))
    torch.testing.assert_close(charged, tensor(case["v_pre"]), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(after, tensor(case["v_post"]), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("path", ORIGINAL_OTHER_RESET)
def test_agrees_with_the_original_until_its_first_reset_to_zero(path: Path) -> None:
    case = load(path)
    neuron = neuron_of(case)
    assert isinstance(neuron, SpikingNeuron)
    x, spikes = tensor(case["x"]), tensor(case["spike"])
    until_first = spikes.cumsum(0) - spikes == 0
    charged, after = membranes(neuron, x)
    assert torch.equal(neuron(x)[until_first], spikes[until_first])
    close = {"rtol": 1e-6, "atol": 1e-6}
    torch.testing.assert_close(charged[until_first], tensor(case["v_pre"])[until_first], **close)
    fired = until_first & (spikes == 1)
    assert torch.equal(after[fired], torch.full_like(after[fired], -0.25))
    assert torch.equal(tensor(case["v_post"])[fired], torch.zeros_like(after[fired]))


@pytest.mark.parametrize("path", cases("neuron_*_memdetach*"))
def test_equals_the_original_with_a_cut_membrane_except_for_gradients_through_time(
    path: Path,
) -> None:
    case = load(path)
    x = tensor(case["x"]).requires_grad_()
    spikes = neuron_of(case)(x)
    assert torch.equal(spikes.detach(), tensor(case["spike"]))
    (tensor(case["w"]) * spikes).sum().backward()
    assert x.grad is not None
    cut = tensor(case["dloss_dx"])
    torch.testing.assert_close(x.grad[-1], cut[-1], rtol=1e-4, atol=1e-6)
    assert (x.grad[:-1] - cut[:-1]).norm() > 0.01 * cut[:-1].norm()


def test_starts_and_resets_hard_at_v_reset_and_leaks_towards_zero() -> None:
    neuron = LIF(tau=2.0, v_threshold=1.0, v_reset=-0.5)
    charged, after = membranes(neuron, drive(0.0, 0.0, 4.0, 0.0))
    # -0.5 halves twice, then -0.125 + (4 + 0.125) / 2 fires and the membrane is back at -0.5
    assert charged.flatten().tolist() == [-0.25, -0.125, 1.9375, -0.25]
    assert after.flatten().tolist() == [-0.25, -0.125, -0.5, -0.25]


def test_resets_softly_by_the_threshold() -> None:
    neuron = IF(v_threshold=0.5, reset="soft")
    charged, after = membranes(neuron, drive(1.75, 0.0, 0.0, 0.0))
    assert charged.flatten().tolist() == [1.75, 1.25, 0.75, 0.25]
    assert after.flatten().tolist() == [1.25, 0.75, 0.25, 0.25]
    assert neuron(drive(1.75, 0.0, 0.0, 0.0)).flatten().tolist() == [1, 1, 1, 0]


@pytest.mark.parametrize("time_window", [1, 7, 40])
@pytest.mark.parametrize("v_threshold", [0.5, 1.0, 1.5])
def test_if_under_constant_drive_fires_floor_of_the_charge_over_the_threshold(
    time_window: int, v_threshold: float
) -> None:
    x = v_threshold * torch.tensor([0.013, 0.171, 0.333, 0.52, 0.77, 0.991], dtype=torch.float64)
    spikes = IF(v_threshold=v_threshold, reset="soft")(x.expand(time_window, 1, -1)).sum(0)
    expected = (time_window * x / v_threshold).floor()
    assert torch.equal(spikes.squeeze(0), expected)


@pytest.mark.parametrize("time_window", [1, 7, 40])
def test_if_with_hard_reset_fires_with_the_period_of_the_constant_drive(time_window: int) -> None:
    x = torch.tensor([0.013, 0.171, 0.333, 0.52, 0.77, 1.4], dtype=torch.float64)
    spikes = IF()(x.expand(time_window, 1, -1)).sum(0)
    period = (1 / x).floor() + 1
    assert torch.equal(spikes.squeeze(0), (time_window / period).floor())


@pytest.mark.parametrize("tau", [1.0, 1.5, 2.0, 10.0])
def test_lif_below_threshold_is_the_geometric_sum_of_its_input(tau: float) -> None:
    generator = torch.Generator().manual_seed(3)
    x = torch.rand(9, 2, 5, generator=generator, dtype=torch.float64)
    neuron = LIF(tau=tau, v_threshold=100.0)
    charged, _ = membranes(neuron, x)
    for t in range(9):
        expected = sum(x[k] / tau * (1 - 1 / tau) ** (t - k) for k in range(t + 1))
        torch.testing.assert_close(charged[t], expected, rtol=1e-12, atol=1e-12)
    assert neuron(x).sum() == 0


@pytest.mark.parametrize("tau", [1.5, 2.0, 10.0])
def test_lif_fires_under_constant_drive_only_above_the_threshold(tau: float) -> None:
    x = torch.tensor([0.99, 1.01, tau * 0.999, tau * 1.001], dtype=torch.float64)
    neuron = LIF(tau=tau)
    assert (neuron(x.expand(200, 1, -1)).sum((0, 1)) > 0).tolist() == [False, True, True, True]
    assert neuron(x.expand(1, 1, -1)).flatten().tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize(
    ("make", "x"),
    [(IF, 1.0), (lambda: LIF(tau=2.0), 2.0), (lambda: PLIF(tau=2.0).double(), 2.0)],
)
def test_does_not_fire_exactly_at_the_threshold(
    make: Callable[[], SpikingNeuron], x: float
) -> None:
    just_above = math.nextafter(x, math.inf) + 1e-15
    neuron = make()
    assert neuron(drive(x)).item() == 0
    assert neuron(drive(just_above)).item() == 1


@each_spiking
def test_keeps_no_state_between_calls(make: Callable[..., SpikingNeuron]) -> None:
    x = 3 * torch.rand(6, 2, 5, generator=torch.Generator().manual_seed(0))
    neuron = make()
    first = neuron(x)
    assert 0 < first.mean() < 1
    assert torch.equal(first, neuron(x))
    assert not list(neuron.buffers())


@each_spiking
def test_accepts_a_current_that_is_an_expanded_view(make: Callable[..., SpikingNeuron]) -> None:
    x = 3 * torch.rand(1, 2, 5, generator=torch.Generator().manual_seed(0))
    neuron = make()
    assert torch.equal(neuron(x.expand(6, 2, 5)), neuron(x.repeat(6, 1, 1)))


@pytest.mark.parametrize(("reset", "v_reset"), [("hard", 0.0), ("hard", -0.25), ("soft", 0.0)])
@pytest.mark.parametrize("first", [0.8, 2.6])
def test_detaching_the_reset_drops_exactly_the_gradient_through_the_spike(
    reset: str, v_reset: float, first: float
) -> None:
    tau, alpha, threshold = 2.0, 2.0, 1.0

    def slope(v: float) -> float:
        return alpha / 2 / (1 + (math.pi / 2 * alpha * (v - threshold)) ** 2)

    def gradient(detach_reset: bool) -> float:
        x = drive(first, 1.3).requires_grad_()
        neuron = LIF(
            tau=tau,
            v_reset=v_reset,
            surrogate=Atan(alpha=alpha),
            detach_reset=detach_reset,
            reset=reset,
        )
        neuron(x)[1].sum().backward()
        assert x.grad is not None
        return x.grad[0].item()

    v1 = v_reset + (first - v_reset) / tau
    fired = v1 > threshold
    if reset == "hard":
        after, through_v, through_s = v_reset if fired else v1, 1 - fired, v_reset - v1
    else:
        after, through_v, through_s = v1 - threshold * fired, 1, -threshold
    v2 = after + (1.3 - after) / tau
    outer = slope(v2) * (1 - 1 / tau) / tau
    assert gradient(True) == pytest.approx(outer * through_v, rel=1e-12)
    assert gradient(False) == pytest.approx(outer * (through_v + through_s * slope(v1)), rel=1e-12)


def test_the_membrane_keeps_its_graph_through_time() -> None:
    x = drive(0.4, 0.6, 0.5).requires_grad_()
    LIF(tau=2.0)(x)[2].sum().backward()
    v3 = 0.4 / 8 + 0.6 / 4 + 0.5 / 2
    slope = 1 / (1 + (math.pi * (v3 - 1)) ** 2)
    assert x.grad is not None
    expected = [slope / 8, slope / 4, slope / 2]
    assert x.grad.flatten().tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("tau", [1.25, 2.0, 5.0])
def test_plif_starts_as_the_lif_of_its_time_constant(tau: float) -> None:
    x = 3 * torch.rand(8, 2, 20, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    plif, lif = PLIF(tau=tau).double(), LIF(tau=tau)
    torch.testing.assert_close(membranes(plif, x)[0], membranes(lif, x)[0], rtol=1e-6, atol=1e-6)
    assert torch.equal(plif(x), lif(x))


def test_plif_learns_one_time_constant_for_the_layer() -> None:
    neuron = PLIF(tau=2.0).double()
    assert [(name, tuple(p.shape)) for name, p in neuron.named_parameters()] == [("w", ())]
    neuron(drive(0.4, 0.6))[1].sum().backward()
    # k = sigmoid(w) = 1/2, v1 = 0.4 k, v2 = v1 + (0.6 - v1) k, dv2/dk = 0.4 (1 - k) + 0.6 - v1
    slope = 1 / (1 + (math.pi * (0.4 - 1)) ** 2)
    assert neuron.w.grad is not None
    expected = slope * (0.4 * 0.5 + 0.6 - 0.2) * 0.25
    assert neuron.w.grad.item() == pytest.approx(expected, rel=1e-12)


def test_relu_is_the_positive_part_without_time_or_parameters() -> None:
    neuron: Neuron = ReLU()
    x = drive(-1.0, 0.0, 2.5)
    assert neuron(x).flatten().tolist() == [0.0, 0.0, 2.5]
    assert (neuron.temporal, neuron.v_threshold, neuron.v_reset) == (False, 1.0, 0.0)
    assert not list(neuron.parameters())


@pytest.mark.parametrize("make", [LIF, PLIF])
def test_names_its_settings_when_printed(make: Callable[..., SpikingNeuron]) -> None:
    assert "v_threshold=0.5" in repr(make(v_threshold=0.5))


@each_spiking
@pytest.mark.parametrize(
    ("key", "settings"),
    [
        ("v_threshold", {"v_threshold": 0.0}),
        ("v_threshold", {"v_threshold": math.inf}),
        ("v_reset", {"v_reset": 1.0}),
        ("v_reset", {"v_reset": -math.inf}),
        ("reset", {"reset": "none"}),
        ("v_reset", {"reset": "soft", "v_reset": -0.5}),
        ("learn_threshold", {"learn_threshold": "unit"}),
        ("learn_threshold", {"learn_threshold": True}),
    ],
)
def test_refuses_settings_outside_their_range(
    make: Callable[..., SpikingNeuron], key: str, settings: dict[str, Any]
) -> None:
    with pytest.raises(Refused) as error:
        make(**settings)
    assert (error.value.key, error.value.value) == (key, settings[key])


@pytest.mark.parametrize("make", [LIF, PLIF, ALIF])
@pytest.mark.parametrize("tau", [0.5, -1.0, math.inf, math.nan])
def test_refuses_a_time_constant_below_one_step(make: Callable[..., Any], tau: float) -> None:
    with pytest.raises(Refused) as error:
        make(tau=tau)
    assert (error.value.key, error.value.value) == ("tau", tau)


def test_a_time_constant_of_one_step_has_no_memory_and_cannot_be_learned() -> None:
    x = 3 * torch.rand(4, 1, 10, generator=torch.Generator().manual_seed(1))
    assert torch.equal(LIF(tau=1.0)(x), (x > 1).float())
    with pytest.raises(Refused, match="> 1"):
        PLIF(tau=1.0)


# Thresholds that learn


def learned_gradient(neuron: SpikingNeuron) -> Tensor:
    """By the thresholds themselves, of which w is the logarithm above v_reset."""
    w = neuron.log_threshold
    assert w is not None and w.grad is not None
    return w.grad / w.detach().exp()


@pytest.mark.parametrize("path", cases("threshold_braincog_*"))
def test_the_gradient_of_a_learned_threshold_is_the_originals(path: Path) -> None:
    """There the threshold itself is learned, or the number whose sigmoid it is."""
    case = load(path)
    settings: dict[str, Any] = {
        "v_threshold": float(case["threshold"]),
        "surrogate": SURROGATES[str(case["surrogate"])](alpha=float(case["alpha"])),
        "learn_threshold": "layer",
    }
    is_lif = str(case["node"]) == "LIFNode"
    neuron = LIF(tau=float(case["tau"]), **settings) if is_lif else IF(**settings)
    x = tensor(case["x"]).requires_grad_()
    spikes = neuron(x)
    assert torch.equal(spikes, tensor(case["spikes"]))
    (tensor(case["w"]) * spikes).sum().backward()
    torch.testing.assert_close(x.grad, tensor(case["dloss_dx"]), rtol=1e-4, atol=1e-5)
    theta = float(case["threshold"])
    slope = theta * (1 - theta) if case["sigmoid"] else 1.0
    expected = float(case["dloss_dparameter"])
    assert slope * learned_gradient(neuron).item() == pytest.approx(expected, rel=1e-4)


@each_spiking
@pytest.mark.parametrize("reset", ["hard", "soft"])
@pytest.mark.parametrize("detach_reset", [True, False])
def test_a_learned_threshold_begins_where_a_fixed_one_stands(
    detach_reset: bool, reset: str, make: Callable[..., SpikingNeuron]
) -> None:
    settings = {"v_threshold": 1.0, "reset": reset, "detach_reset": detach_reset}
    x = 3 * torch.rand(7, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    answers = []
    for how in (False, "layer", "channel"):
        neuron, given = make(learn_threshold=how, **settings).double(), x.clone().requires_grad_()
        neuron.spread(5)
        spikes = neuron(given)
        spikes.sum().backward()
        answers.append((spikes.detach(), given.grad))
        if how:
            w = neuron.log_threshold
            assert w is not None and w.shape == ((5,) if how == "channel" else ())
            assert w.grad is not None and bool((w.grad != 0).all())
            assert "learn_threshold" in repr(neuron)
            assert neuron.kernel_constants() is None
    for answer in answers[1:]:
        torch.testing.assert_close(answer, answers[0], rtol=1e-12, atol=1e-12)


def test_a_threshold_stays_above_v_reset_whatever_the_optimizer_does() -> None:
    neuron = IF(v_threshold=0.25, v_reset=-0.5, learn_threshold="layer").double()
    assert neuron.log_threshold is not None
    optimizer = torch.optim.SGD([neuron.log_threshold], lr=1.0)
    for _ in range(30):
        optimizer.zero_grad()
        threshold = neuron.threshold(torch.zeros(1, 1))
        assert isinstance(threshold, Tensor) and threshold.item() > -0.5
        neuron.log_threshold.sum().backward()  # pushes it down without end
        optimizer.step()


def test_each_channel_of_an_image_has_its_own_threshold() -> None:
    block = Block(torch.nn.Conv2d(1, 3, 1), PopNorm((3, 2, 2)), IF(learn_threshold="channel"))
    neuron = block.neuron
    assert isinstance(neuron, IF) and neuron.log_threshold is not None
    neuron.log_threshold.data = torch.tensor([0.5, 1.5, 2.5]).log()
    spikes = neuron(torch.full((1, 1, 3, 2, 2), 2.0))
    assert spikes[0, 0, :, 0, 0].tolist() == [1, 1, 0]


@pytest.mark.parametrize("how", ["layer", "channel"])
@pytest.mark.parametrize("reset", ["hard", "soft"])
@pytest.mark.parametrize("make", SPIKING[:3])
def test_behind_popnorm_a_learned_threshold_is_no_new_freedom(
    make: Callable[..., SpikingNeuron], reset: str, how: str
) -> None:
    """Scale the affine map as the threshold, and every spike stays; by powers of two, exactly."""
    torch.manual_seed(0)
    neuron = make(learn_threshold=how, reset=reset)
    block = Block(torch.nn.Conv2d(2, 4, 3), PopNorm((4, 6, 6)), neuron)
    with torch.no_grad():
        block.norm.weight.uniform_(0.5, 3.0)
        block.norm.bias.uniform_(-0.5, 1.5)
    x = torch.rand(5, 3, 2, 8, 8)
    before = block(x, 5)
    assert 0.05 < before.mean() < 0.95
    factors = torch.tensor([0.5, 2.0, 4.0, 8.0] if how == "channel" else [4.0])
    w = neuron.log_threshold
    assert w is not None
    with torch.no_grad():
        w.add_(factors.log().view(w.shape))
        assert not torch.equal(block(x, 5), before)
        for affine in (block.norm.weight, block.norm.bias):
            affine.mul_(factors.view(-1, 1, 1))
    assert (block(x, 5) != before).float().mean() < 1e-3  # exp(log(2)) is 2 up to rounding


# Adaptation


@pytest.mark.parametrize("path", cases("alif_norse_*"))
def test_adaptive_thresholds_are_those_of_norse(path: Path) -> None:
    """Its membrane integrates a filtered current, which is recorded, one step late."""
    case = load(path)
    dt = float(case["dt"])
    neuron = ALIF(
        tau=1 / (dt * float(case["tau_mem_inv"])),
        tau_adapt=1 / (dt * float(case["tau_adapt_inv"])),
        beta=float(case["beta"]),
        v_threshold=float(case["v_th"]),
    )
    currents = tensor(case["i"])
    spikes = neuron(torch.cat([torch.zeros_like(currents[:1]), currents[:-1]]))
    assert torch.equal(spikes, tensor(case["spikes"]))
    assert 0 < spikes.mean() < 1


def test_adaptation_by_hand() -> None:
    neuron = ALIF(tau=1.0, beta=1.0, tau_adapt=2.0)
    # Thresholds 1, 1.5 (after a spike, halved), 1.75, 1.375, 1.1875 and 1.59375.
    spikes = neuron(drive(1.25, 1.75, 1.5, 1.25, 1.25, 1.5))
    assert spikes.flatten().tolist() == [1, 1, 0, 0, 1, 0]


def test_without_beta_or_with_a_time_constant_of_one_step_it_is_a_lif() -> None:
    x = 3 * torch.rand(8, 2, 20, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    spikes = LIF()(x)
    assert torch.equal(ALIF(beta=0.0)(x), spikes)
    assert torch.equal(ALIF(tau_adapt=1.0)(x), spikes)
    assert ALIF()(x).sum() < spikes.sum()


def test_the_gradient_goes_through_the_adaptation() -> None:
    x = drive(0.9, 0.9).requires_grad_()
    ALIF(tau=1.0, beta=1.0, tau_adapt=2.0)(x)[1].sum().backward()
    # The second spike's slope at 0.9 - 1, times - beta / 2 and the first one's slope.
    slope = 1 / (1 + (math.pi * -0.1) ** 2)
    assert x.grad is not None
    assert x.grad.flatten().tolist() == pytest.approx([-0.5 * slope * slope, slope])


@pytest.mark.parametrize(
    ("key", "value"), [("beta", -0.1), ("tau_adapt", 0.5), ("tau_adapt", math.nan)]
)
def test_refuses_an_adaptation_out_of_range(key: str, value: float) -> None:
    with pytest.raises(Refused) as error:
        ALIF(**{key: value})  # type: ignore[arg-type]
    assert (error.value.key) == key
