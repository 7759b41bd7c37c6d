"""`spike_gradient=score_function` against every spike pattern and action that there is."""

import io
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sdqn_lab.agents.a2c import A2C
from sdqn_lab.agents.base import EnvSpec, Row
from sdqn_lab.agents.policy_agent import PolicyAgent
from sdqn_lab.agents.reinforce import REINFORCE
from sdqn_lab.networks.mlp import MLP
from sdqn_lab.networks.network import SpikingNetwork
from sdqn_lab.spiking.encoder import Direct
from sdqn_lab.spiking.neuron import LIF, Bernoulli
from sdqn_lab.spiking.norm import NoNorm, PopNorm
from sdqn_lab.spiking.readout import MeanSpikes
from sdqn_lab.spiking.surrogate import Sigmoid
from sdqn_lab.training.checkpoint import pack, unpack
from tests.agents.test_plasticity import played
from tests.refusals import problems, refuses

FEATURES, UNITS, ACTIONS = 3, 3, 2
SEEN = torch.tensor([[0.9, -0.4, 1.3]], dtype=torch.float64)
REWARDS = torch.tensor([1.5, -0.25], dtype=torch.float64)
ENTROPY_COEF = 0.5


def network(layers=1, time_window=3, *, shared=False, heads=1, norm=PopNorm, neuron=None, seed=3):
    """Lively layers of three neurons, whose surrogate is the slope of the probability."""
    torch.manual_seed(seed)
    sizes = {"hidden": UNITS, "layers": layers, "normalize_hidden": True}

    def make():
        return neuron() if neuron else Bernoulli(delta_u=0.5, surrogate=Sigmoid(alpha=2.0))

    torsos = [MLP((FEATURES,), make, norm, **sizes) for _ in range(heads)]
    names = {"policy": ACTIONS, "value": 1} if heads == 2 else {"policy": ACTIONS}
    apart = {"value": torsos[-1]} if heads == 2 and not shared else None
    made = SpikingNetwork(
        torsos[0],
        Direct(),
        {name: MeanSpikes(UNITS, width) for name, width in names.items()},
        own_torsos=apart,
        time_window=time_window,
        observation_scale=1.0,
    )
    for module in made.modules():
        if isinstance(module, nn.Linear):
            module.weight.data.mul_(3)
    return made.double()


def agent_of(name, made, **changes):
    cls = {"reinforce": REINFORCE, "a2c": A2C}[name]
    own = {"normalize_returns": False} if name == "reinforce" else {}
    settings = {"spike_gradient": "score_function", "num_envs": 1, **own, **changes}
    return cls(made, EnvSpec((FEATURES,), ACTIONS, dtype=torch.float64), seed=0, **settings)


def patterns(layers, time_window):
    """Every pattern of all neurons and steps, (P, layers, T, UNITS)."""
    shape = layers, time_window, UNITS
    every = list(product([0.0, 1.0], repeat=int(np.prod(shape))))
    return torch.tensor(every, dtype=torch.float64).view(-1, *shape)


def by_hand(made, spikes):
    """P(h) (P,) and pi(a|h) (P, A) of all patterns, from the equations, with gradients."""
    likelihood = torch.ones(len(spikes), dtype=torch.float64)
    before = SEEN.expand(spikes.shape[2], len(spikes), FEATURES)
    for number, block in enumerate(made.torso.children()):
        v = torch.zeros(len(spikes), UNITS, dtype=torch.float64)
        for step, x in enumerate(before):
            v = v + (block.norm(x @ block.linear.weight.T + block.linear.bias) - v) / 2
            p = 1 / (1 + torch.exp(-(v - 1) / 0.5))
            s = spikes[:, number, step]
            likelihood = likelihood * torch.where(s == 1, p, 1 - p).prod(1)
            v = v * (1 - s)
        before = spikes[:, number].transpose(0, 1)
    logits = before.mean(0) @ made.heads["policy"].linear.weight.T
    return likelihood, logits.softmax(1)


def of_policy(made):
    """Parameters that decide, torso first."""
    return [*made.torso.parameters(), *made.heads["policy"].parameters()]


def exact(made, spikes, entropy_coef=0.0):
    """The gradient of sum_h P(h) (sum_a pi(a|h) R(a) + entropy_coef H)."""
    likelihood, pi = by_hand(made, spikes)
    assert likelihood.sum().item() == pytest.approx(1.0)
    earned = (pi * REWARDS).sum(1) - entropy_coef * (pi * pi.log()).sum(1)
    return torch.autograd.grad((likelihood * earned).sum(), of_policy(made))


def packed(spikes):
    bits = spikes.flatten(1).numpy().astype(np.uint8)
    return torch.from_numpy(np.packbits(bits, axis=1, bitorder="little"))


def every_case(made, spikes):
    """Bits and action of all cases, and their joint probabilities."""
    likelihood, pi = (each.detach() for each in by_hand(made, spikes))
    cases = [(h, a) for h in range(len(spikes)) for a in range(ACTIONS)]
    joint = torch.stack([likelihood[h] * pi[h, a] for h, a in cases])
    bits = packed(spikes)[[h for h, _ in cases]]
    return bits, torch.tensor([a for _, a in cases]), joint


def weighted(agent: PolicyAgent, bits, actions, earned, joint) -> list[Tensor]:
    """Minus the loss's gradient, times the cases' probabilities: the mean of the estimate."""
    weights = len(joint) * joint * earned
    batch = {
        "observations": SEEN.expand(len(actions), -1),
        "actions": actions,
        "spikes": bits,
        "return": weights,
        "advantage": weights,
        "value": torch.zeros_like(weights),
    }
    outputs = agent.outputs(batch)
    loss, _ = agent.loss(batch, outputs)
    return [-g for g in torch.autograd.grad(loss, of_policy(agent.network), allow_unused=True)]


def far(found, expected):
    """Largest error over all parameters of the torso, in units of the gradient's norm."""
    total = torch.cat([g.flatten() for g in expected]).norm()
    return max(float((f - e).norm() / total) for f, e in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    ("layers", "steps", "norm"), [(1, 3, PopNorm), (2, 2, NoNorm), (2, 2, PopNorm)]
)
@pytest.mark.parametrize("name", ["reinforce", "a2c"])
def test_the_mean_of_the_estimate_over_all_spikes_and_actions_is_the_gradient(
    name, layers, steps, norm
):
    made = network(layers, steps, heads=1 + (name == "a2c"), norm=norm)
    agent, every = agent_of(name, made), patterns(layers, steps)
    bits, actions, joint = every_case(made, every)
    # A fixed baseline moves no mean.
    earned = REWARDS[actions] - (0.75 if name == "a2c" else 0.0)
    expected = exact(made, every)
    assert all(g.abs().max() > 1e-5 for g in expected)
    assert far(weighted(agent, bits, actions, earned, joint), expected) < 1e-9


@pytest.mark.parametrize("name", ["reinforce", "a2c"])
def test_with_an_entropy_bonus_it_is_the_gradient_of_return_and_entropy(name):
    made = network(time_window=2, heads=1 + (name == "a2c"))
    agent, every = agent_of(name, made, entropy_coef=ENTROPY_COEF), patterns(1, 2)
    bits, actions, joint = every_case(made, every)
    found = [torch.zeros_like(p) for p in of_policy(made)]
    for i, share in enumerate(joint):
        own = slice(i, i + 1)
        one = weighted(agent, bits[own], actions[own], REWARDS[actions[own]], torch.ones(1))
        found = [f + share * g for f, g in zip(found, one, strict=True)]
    assert far(found, exact(made, every, ENTROPY_COEF)) < 1e-9


def test_surrogates_estimate_something_else_on_the_same_network(monkeypatch):
    made = network()
    agent, every = agent_of("reinforce", made, spike_gradient="surrogate"), patterns(1, 3)
    bits, actions, joint = every_case(made, every)
    # 0 is below every probability and 1 below none: so the neurons draw what is asked for.
    drawn = iter(1 - every.repeat_interleave(ACTIONS, 0)[:, 0].transpose(0, 1))
    monkeypatch.setattr(torch, "rand", lambda *_, **__: next(drawn))
    found = weighted(agent, bits, actions, REWARDS[actions], joint)
    expected = exact(made, every)
    # The head's own gradient needs no surrogate.
    torch.testing.assert_close(found[-1], expected[-1])
    assert far(found[:-1], expected[:-1]) > 0.1


def test_values_of_the_scored_spikes_themselves_would_be_no_baseline():
    made = network(heads=2, shared=True)
    agent, every = agent_of("a2c", made), patterns(1, 3)
    bits, actions, joint = every_case(made, every)
    rates = every[:, 0].mean(1).repeat_interleave(ACTIONS, 0)
    value = made.heads["value"].linear(rates).squeeze(1).detach()
    found = weighted(agent, bits, actions, REWARDS[actions] - value, joint)
    assert far(found, exact(made, every)) > 0.1
    asked = "algo.spike_gradient=score_function"
    (problem,) = problems(["algo=a2c", "env=minatar_breakout", "neuron=bernoulli", asked])
    assert (problem.key, problem.instead) == ("algo.shared_trunk", "false")


def test_spikes_drawn_anew_would_teach_the_hidden_layers_nothing():
    made = network()
    agent, every = agent_of("reinforce", made), patterns(1, 3)
    likelihood = by_hand(made, every)[0].detach()
    actions = torch.ones(len(every), dtype=torch.int64)
    found = weighted(agent, packed(every), actions, REWARDS[1], likelihood)
    of_head = found.pop()
    assert max(float(g.abs().max()) for g in found) < 1e-12
    assert of_head.abs().max() > 1e-3


# The spikes that are kept


@pytest.mark.parametrize("name", ["reinforce", "a2c"])
def test_what_is_learned_from_are_the_spikes_that_led_to_the_action(name):
    made = network(layers=2, time_window=5, heads=1 + (name == "a2c"))
    agent = agent_of(name, made, num_envs=4)
    seen = np.random.default_rng(0).standard_normal((4, FEATURES))
    state = agent.generator.get_state()
    kept = torch.from_numpy(agent.act(seen, 0).extras["spikes"])
    agent.generator.set_state(state)
    acted = agent.policy(made, ACTIONS, generator=agent.generator).outputs(seen)
    batch = {"observations": torch.from_numpy(seen), "spikes": kept}
    outputs = agent.outputs(batch)
    assert torch.equal(outputs["policy"], acted)
    assert kept.shape == (4, 4)  # 2 layers, 5 steps, 3 neurons: 30 bits
    others = agent.outputs(batch | {"spikes": kept.roll(1, 0)})
    assert torch.equal(others["policy"].argsort(0), acted.roll(1, 0).argsort(0))
    assert not torch.equal(others["spike_log_prob"], outputs["spike_log_prob"])
    # Nothing is lent for longer than a call.
    assert all(m.tape is None for m in made.modules() if isinstance(m, Bernoulli))


def test_spikes_stay_with_their_observation_until_the_episode_has_ended():
    made = network()
    agent = agent_of("reinforce", made, num_envs=2, rollout_steps=3)
    drawn = {}
    for step in range(6):
        seen = np.array([[step, 1, 0], [step, 2, 0]], np.float64)
        decision = agent.act(seen, step)
        drawn |= zip(map(tuple, seen), decision.extras["spikes"], strict=True)
        terminal = np.array([step in (1, 4), step == 5])
        row = Row(seen, decision.actions, np.ones(2, np.float32), terminal, np.ones(2, np.bool_))
        agent.observe(row, decision.extras)
        if step == 2:
            # The second game runs on; one row of the first has just begun.
            assert sum(1 for _ in agent.learn(step)) == 1
            assert len(agent.extras) == len(agent.rows) == 3
    lesson = agent.lesson()
    assert len(lesson["actions"]) == 6 + 3
    for seen, spikes in zip(lesson["observations"], lesson["spikes"], strict=True):
        assert np.array_equal(spikes, drawn[tuple(seen.tolist())])


# Learning and exact continuation


def playing(name, seed=0, env=(4, 4), **changes):
    features, actions = env
    torch.manual_seed(seed)
    torsos = [
        MLP((features,), Bernoulli, PopNorm, hidden=16, layers=1, normalize_hidden=True)
        for _ in range(2)
    ]
    heads = {"policy": MeanSpikes(16, actions)}
    if name == "a2c":
        heads["value"] = MeanSpikes(16, 1)
    made = SpikingNetwork(
        torsos[0],
        Direct(),
        heads,
        own_torsos={"value": torsos[1]} if name == "a2c" else None,
        time_window=4,
        observation_scale=1.0,
    )
    cls = {"reinforce": REINFORCE, "a2c": A2C}[name]
    spec = EnvSpec((features,), actions, dtype=torch.float32)
    return cls(made, spec, seed=seed, spike_gradient="score_function", **changes)


@pytest.mark.parametrize("name", ["reinforce", "a2c"])
def test_a_state_loaded_amid_an_episode_continues_bit_for_bit(name):
    agent, other = (playing(name, seed, (25, 4), rollout_steps=7, num_envs=3) for seed in (0, 5))
    played(agent, 160, "Gridworld-v0")
    assert agent.updates
    written = io.BytesIO()
    torch.save(pack(agent.state_dict()), written)
    written.seek(0)
    other.load_state_dict(unpack(torch.load(written, weights_only=True)))
    ours, theirs = (played(each, 100, "Gridworld-v0", seed=1) for each in (agent, other))
    assert ours == theirs != []
    weights = [each.network.state_dict() for each in (agent, other)]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


@pytest.mark.parametrize(
    ("name", "settings", "least"),
    [
        ("reinforce", {"rollout_steps": 8}, 0.4),
        ("a2c", {"num_envs": 8, "rollout_steps": 8, "max_grad_norm": None}, 0.7),
    ],
)
def test_it_learns_the_bandit(name, settings, least):
    returns = played(playing(name, **settings | {"learning_rate": 0.01}), 800)
    # Chance is 0.25, give or take 0.02.
    assert np.mean(returns[-400:]) > least


# What is refused


@pytest.mark.parametrize(
    ("overrides", "key", "instead"),
    [
        (["neuron=lif"], "algo.spike_gradient", "surrogate, or neuron=bernoulli"),
        (["neuron=relu"], "algo.spike_gradient", "surrogate, or neuron=bernoulli"),
        (["norm=batchnorm"], "algo.spike_gradient", "surrogate, or norm=popnorm"),
        (
            ["encoder=poisson", "env=minatar_breakout"],
            "algo.spike_gradient",
            "surrogate, or encoder=direct",
        ),
        (
            ["encoder=population", "encoder.stochastic=true"],
            "algo.spike_gradient",
            "surrogate, or encoder=direct",
        ),
        (["algo.spike_gradient=score"], "algo.spike_gradient", "surrogate"),
    ],
)
def test_what_has_no_score_is_refused_in_one_line(overrides, key, instead):
    base = ["algo=reinforce", "env=cartpole", "neuron=bernoulli"]
    (problem,) = problems([*base, "algo.spike_gradient=score_function", *overrides])
    assert (problem.key, problem.instead) == (key, instead)
    assert "\n" not in str(problem)


def test_an_agent_refuses_what_the_command_line_does():
    with refuses("algo.spike_gradient", "score_function", "neuron=bernoulli"):
        agent_of("reinforce", network(neuron=LIF))


def test_the_surrogates_option_is_the_cell_it_was_before():
    from sdqn_lab import config
    from sdqn_lab.config.identity import identity

    cfg = config.compose(["algo=reinforce", "env=cartpole"])
    assert "spike_gradient" not in identity(cfg)["algo"]
    scored = ["neuron=bernoulli", "algo.spike_gradient=score_function"]
    cfg = config.compose(["algo=reinforce", "env=cartpole", *scored])
    assert identity(cfg)["algo"]["spike_gradient"] == "score_function"
