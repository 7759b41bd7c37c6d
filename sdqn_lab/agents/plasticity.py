"""Reward-modulated plasticity: the last map learns from spikes and reward, without a gradient."""

import inspect
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, cast, get_type_hints

import numpy as np
import torch
from torch import Tensor, nn

from sdqn_lab.agents.base import Agent, Arguments, Array, Decision, EnvSpec, Row, RunFacts
from sdqn_lab.agents.plasticity_rules import RULES, Rule
from sdqn_lab.agents.policy import MostSpikes
from sdqn_lab.agents.rollout import Rollout
from sdqn_lab.agents.seeding import restore, stream, stream_seed
from sdqn_lab.checks.ranges import (
    Count,
    NonNegative,
    OneOf,
    Positive,
    Share,
    Weight,
    check_arguments,
    fault,
)
from sdqn_lab.checks.refused import Refused
from sdqn_lab.envs.base import ActionSpace
from sdqn_lab.spiking.output_neurons import OutputSpikes

RULE_KEYS = sorted(
    {name for rule in RULES.values() for name in inspect.signature(rule).parameters} - {"neurons"}
)
"""Arguments that belong to rules; None: the rule's own default, or it has no such argument."""


class Plasticity(Agent):
    """Output neurons that fire for actions; the most spikes decide, their escape noise explores.

    The torso stays as it is. For each decision of N environments a rule (`plasticity_rules`) gives
    the eligibilities E of the last map's weights and of the output neurons' thresholds. Then, once
    reward r and the next observation are known::

        z      <- trace_decay z + E                  per environment, 0 after an episode's end
        m       = r, or r - mean(r), or r + d V(s') - V(s)
        W      <- W + learning_rate mean(m z)        over environments, clipped to +- max_weight
        theta  <- theta + threshold_learning_rate mean(m z_theta), kept >= 0

    d is gamma, or 0 after a terminal step. mean(r) is a running mean over all that was earned. V is
    linear in the firing rates x of the torso and learns by TD(lambda) with a trace of its own::

        y      <- trace_decay y + x
        a      <- min(a, 1 / (y . (x - d x')))       from a = value_learning_rate
        v      <- v + a mean(m y)

    A step takes an error m of its own observation to (1 - a y . (x - d x')) m: up to the bound it
    does not overshoot, above twice the bound it grows. Firing rates of a LIF are small enough that
    the bound is seldom met; the features of a ReLU are not. The largest of N environments counts,
    and products below 0 set no bound. The change follows the next decision, as in PQN
    (docs/DEVIATIONS.md, row 58).

    Args:
        network: with one head that is an `OutputSpikes`.
        env: the environment's shapes.
        seed: of ties between actions ("explore") and of all spikes that are drawn ("encoder").
        num_envs: N.
        iteration_steps: agent steps between evaluations.
        rule: a name in `RULES`.
        modulator: reward, reward_minus_mean or td_error: which m.
        learning_rate: of the weights; None: what suits the rule.
        threshold_learning_rate: of the thresholds; 0: they stay.
        trace_decay: what is left of a trace after a decision, in [0, 1].
        max_weight: bound of a weight's size; None: there is none.
        mean_rate: weight of a new mean of rewards in the running mean.
        gamma: discount of one agent step, of td_error.
        value_learning_rate: of V, of td_error, before it is bounded.
        tau_plus: see the rules, as all arguments that follow; None: the rule's own default.

    Attributes:
        updates: changes made.
        value_rate: a.
        generator: where spikes are drawn from while it acts.

    Raises:
        Refused: an argument outside its range, or a network with another head.

    Source: Williams 1992; Florian 2007; Vasilaki et al. 2009; the bound: Dabney and Barto 2012. See
    docs/PLASTICITY.md.
    """

    learns_by_gradient = False
    parameter_copies = 1
    reads = OutputSpikes

    def __init__(
        self,
        network: nn.Module,
        env: EnvSpec,
        *,
        seed: int,
        num_envs: Count = 8,
        iteration_steps: Count = 20_000,
        rule: Annotated[str, OneOf(*RULES)] = "score_function",
        modulator: Annotated[
            str, OneOf("reward_minus_mean", "reward", "td_error")
        ] = "reward_minus_mean",
        learning_rate: Positive | None = None,
        threshold_learning_rate: NonNegative = 0.0,
        trace_decay: Share = 0.0,
        max_weight: Positive | None = None,
        mean_rate: Weight = 0.05,
        gamma: Share = 0.95,
        value_learning_rate: Positive = 0.05,
        tau_plus: Positive | None = None,
        tau_minus: Positive | None = None,
        a_plus: float | None = None,
        a_minus: float | None = None,
        same_step_depression: bool | None = None,
        tau_eligibility: Positive | None = None,
        hebb: NonNegative | None = None,
    ) -> None:
        given = locals()
        check_arguments(Plasticity.__init__, given)
        super().__init__(
            network, env, seed=seed, num_envs=num_envs, iteration_steps=iteration_steps
        )
        (readout,) = self.network.heads.values()
        if not isinstance(readout, OutputSpikes):
            rule_ = "plasticity needs output neurons"
            raise Refused("readout", type(readout).__name__, rule_, "readout=output_spikes")
        own = {k: given[k] for k in RULE_KEYS if given[k] is not None}
        self.rule: Rule = RULES[rule](readout, **own)
        self.readout, self.modulator, self.trace_decay = readout, modulator, trace_decay
        self.learning_rate = learning_rate or self.rule.learning_rate
        self.threshold_learning_rate = threshold_learning_rate
        self.max_weight, self.mean_rate = max_weight, mean_rate
        self.gamma, self.value_rate = gamma, value_learning_rate
        self.updates, self.mean_reward = 0, 0.0
        self.value_weights = torch.zeros(readout.linear.in_features)
        self.traces: dict[str, Tensor] = {}
        self.rollout = Rollout(1)
        self.generator = torch.Generator(self.device).manual_seed(stream_seed(seed, "encoder"))
        self._explore = stream(seed, "explore")
        self._policy = self.policy(network, env.num_actions)
        self._seen: Array | None = None

    @torch.no_grad()
    def act(self, observations: Array, step: int) -> Decision:
        """Let the output neurons fire, and work out what they will be held responsible for."""
        seen, neuron = torch.from_numpy(observations).to(self.device), self.readout.neuron
        network = self.network.eval()
        pre = network.features(seen, generator=self.generator)
        currents = self.readout.linear(pre)
        with network.drawing(self.generator):
            post = neuron(currents)
        probability = neuron.probabilities(currents, post)
        found = {
            "weights": self.rule.weights(pre, post, probability),
            "thresholds": self.rule.thresholds(post, probability),
            "rates": pre.mean(0),
        }
        self._seen = observations
        actions = self._policy.choose(self.readout.rates(post), self._explore)
        return Decision(actions, {name: each.cpu().numpy() for name, each in found.items()})

    def observe(self, row: Row, extras: Mapping[str, Array]) -> None:
        """Keep a row until the next is there."""
        self.rollout.append(row, extras)

    def close(self, observations: Array) -> None:
        """Running episodes are truncated at these observations, with the values there."""
        generator = self.generator.clone_state()
        explore = self._explore.bit_generator.state
        extras = self.act(observations, 0).extras
        # Nothing was decided: the streams go on where they were.
        self.generator.set_state(generator.get_state())
        self._explore.bit_generator.state = explore
        self.rollout.close(observations, extras)

    @torch.no_grad()
    def learn(self, step: int) -> Iterator[dict[str, Tensor | float]]:
        """Change weights by what the rows before the last have earned."""
        while self.rollout.complete:
            columns = {k: torch.from_numpy(c.copy()) for k, c in self.rollout.columns().items()}
            valid = columns["valid"][0]
            for name in ("weights", "thresholds", "rates"):
                found = columns[name][0]
                trace = self.trace_decay * self.traces.get(name, 0.0) + found
                # A row that is no decision follows an episode's end.
                self.traces[name] = torch.where(
                    valid.view(-1, *[1] * (found.dim() - 1)), trace, 0.0
                )
            if valid.any():
                yield self.update(columns, valid)
            self.rollout.advance()

    def update(self, columns: Mapping[str, Tensor], valid: Tensor) -> dict[str, Tensor | float]:
        """Make one change by the traces.

        Args:
            columns: of a row and the one after it, (2, N, ...): rewards, terminal and rates.
            valid: (N,) who took a step; not all False.

        Returns:
            "plasticity/modulator" (mean of m) and "plasticity/change_norm" (L2, of the weights).
        """
        rewards = columns["rewards"][0]
        if self.modulator == "td_error":
            discounts = self.gamma * ~columns["terminal"][0]
            # Both by the same v: with V(s) from before v's last change a long game diverges.
            value = columns["rates"] @ self.value_weights
            factor = rewards + discounts * value[1] - value[0]
            x, following = columns["rates"]
            moved = self.traces["rates"] * (x - discounts.unsqueeze(1) * following)
            largest = float(moved.sum(1)[valid].max())
            self.value_rate = min(self.value_rate, 1 / largest) if largest > 0 else self.value_rate
        else:
            factor = rewards - (self.mean_reward if self.modulator != "reward" else 0.0)
        factor, count = torch.where(valid, factor, 0.0), valid.sum()
        change = {
            name: torch.tensordot(factor, trace, dims=1) / count
            for name, trace in self.traces.items()
        }
        weights, thresholds = self.readout.linear.weight, self.readout.neuron.v_threshold
        moved = self.learning_rate * change["weights"]
        weights += moved.to(weights.device)
        if self.max_weight is not None:
            weights.clamp_(-self.max_weight, self.max_weight)
        of_thresholds = self.threshold_learning_rate * change["thresholds"]
        cast(Tensor, thresholds).add_(of_thresholds.to(weights.device)).clamp_(min=0)
        if self.modulator == "td_error":
            self.value_weights += self.value_rate * change["rates"]
        earned = float(rewards[valid].mean())
        self.mean_reward += self.mean_rate * (earned - self.mean_reward)
        self.updates += 1
        mean = float(factor.sum() / count)
        return {"plasticity/modulator": mean, "plasticity/change_norm": float(moved.norm())}

    def sample(self, rng: np.random.Generator) -> Tensor | None:
        """Observations of the last decision; None before the first."""
        return None if self._seen is None else torch.from_numpy(self._seen)

    def metrics(self, step: int) -> dict[str, float]:
        """The running mean of rewards; under td_error the values' rate too."""
        rate = {"plasticity/value_rate": self.value_rate} if self.modulator == "td_error" else {}
        return {"plasticity/reward_mean": self.mean_reward, **rate}

    def state_dict(self) -> dict[str, Any]:
        """Everything, traces and the row that waits included; it shares memory with the agent."""
        return {
            "network": dict(self.network.state_dict()),
            "updates": self.updates,
            "mean_reward": self.mean_reward,
            "value_rate": self.value_rate,
            "value_weights": self.value_weights,
            "traces": self.traces,
            "rollout": self.rollout.state_dict(),
            "generator": self.generator.get_state(),
            "explore": self._explore.bit_generator.state,
            "seen": self._seen,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state made by `state_dict` of an agent built alike.

        Moved to another kind of device, spikes are drawn from the stream that this agent was built
        with.
        """
        self.network.load_state_dict(state["network"])
        self.updates, self.mean_reward = state["updates"], state["mean_reward"]
        # In earlier versions it was never lowered.
        self.value_rate = state.get("value_rate", self.value_rate)
        self.value_weights, self.traces = state["value_weights"], dict(state["traces"])
        # Earlier versions kept values as well.
        rows = {name: column for name, column in state["rollout"].items() if name != "value"}
        self.rollout.load_state_dict(rows)
        self._explore.bit_generator.state = state["explore"]
        self._seen = state["seen"]
        restore(self.generator, state["generator"])

    @staticmethod
    def heads(num_actions: int, arguments: Arguments) -> dict[str, int]:
        """A population for each action."""
        return {"policy": num_actions}

    @staticmethod
    def policy(
        network: nn.Module,
        actions: ActionSpace,
        *,
        epsilon: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> MostSpikes:
        """The most spikes, but for epsilon; spikes are drawn in evaluation too."""
        return MostSpikes(network, actions, epsilon=epsilon, generator=generator)

    @staticmethod
    def problems(arguments: Arguments, run: RunFacts) -> list[Refused]:
        """Each rule has its own arguments, and not every one learns thresholds."""
        name, found = arguments["rule"], []
        own = inspect.signature(RULES[name]).parameters
        hints = get_type_hints(RULES[name].__init__, include_extras=True)
        for key in RULE_KEYS:
            value = arguments[key]
            if value is None:
                continue
            if key not in own:
                rule = f"algo.rule={name} has no such argument"
                found.append(Refused(f"algo.{key}", value, rule, "null"))
            elif rule := fault(value, hints[key]):
                rule = f"{rule} under algo.rule={name}"
                found.append(Refused(f"algo.{key}", value, rule, str(own[key].default)))
        rate = arguments["threshold_learning_rate"]
        if rate and not RULES[name].learns_thresholds:
            rule = f"algo.rule={name} does not say how thresholds change"
            found.append(Refused("algo.threshold_learning_rate", rate, rule, "0"))
        return found

    @staticmethod
    def updates_made(arguments: Arguments, steps: int) -> int:
        """One for each row but the last, if episodes are long."""
        return max(0, -(-steps // int(arguments["num_envs"])) - 1)
