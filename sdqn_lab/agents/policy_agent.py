"""What agents share that act by probabilities of actions, with values beside them or without."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from sdqn_lab.agents.base import Arguments, Array, Decision, EnvSpec, Row, RunFacts
from sdqn_lab.agents.descent import descend
from sdqn_lab.agents.gradient_agent import GradientAgent
from sdqn_lab.agents.losses import categorical, gaussian
from sdqn_lab.agents.policy import Gaussian, Mean, Policy, Sampled
from sdqn_lab.agents.returns import gae
from sdqn_lab.agents.rollout import Rollout, rollout_bytes, rollout_problems, rollout_updates
from sdqn_lab.agents.schedules import LinearSchedule
from sdqn_lab.agents.seeding import restore, stream, stream_seed
from sdqn_lab.checks.refused import Refused
from sdqn_lab.envs.base import ActionSpace
from sdqn_lab.spiking.neuron import Bernoulli, Neuron
from sdqn_lab.spiking.norm import BatchNorm
from sdqn_lab.spiking.tape import SpikeTape

if TYPE_CHECKING:
    from sdqn_lab.networks.network import SpikingNetwork

Batch = Mapping[str, Tensor]
"""B transitions to learn from, by column, on the agent's device: observations (B, ...) in the
environment's dtype, actions (B,) int64 or (B, D) float32, numbers (B,) float32, and under
`spike_gradient=score_function` "spikes" (B, bytes) uint8, those drawn while acting."""


class PolicyAgent(GradientAgent):
    """Draws actions from pi(a|s) and learns by gradient steps.

    Finitely many actions have the probabilities softmax(logits)[a]. Continuous ones of D numbers
    have a normal distribution with the means that the head gives and standard deviations exp(log
    std), parameters which are the same for every observation and begin with 1::

        a_d ~ N(mean_d(s), std_d^2),  log pi(a|s) = sum_d log N(a_d; mean_d(s), std_d^2)

    What is learned from is a as it was drawn; the environment plays it clipped to its bounds.
    Evaluation and play take the mean.

    Where a network draws its spikes h, the expected return has an exact gradient in expectation::

        grad E[R] = E[R (grad log pi(a|h) + grad log P(h|s))]           Williams 1992

    Under `spike_gradient=surrogate` it is replaced by that of log pi(a|h) alone, through surrogates
    of the spikes: less noise, and a bias. Under `score_function` it is taken as it stands, with
    each weight w of log pi(a|h) for the spikes too::

        L <- L - mean (w + entropy_coef H) log P(h|s)

    It takes the very spikes that led to the action: others, drawn anew, did nothing for it, and
    their expected score is 0. So acting keeps them (`SpikeTape`), a bit for each neuron and step.

    Args:
        network: called as network(observations, generator=...) -> logits (B, A), or mean and log
            std (B, 2D), or with several heads a dictionary with them under "policy".
        env: the environment's shapes.
        seed: of actions ("explore"), of minibatches ("shuffle") and of a network that draws
            ("encoder").
        num_envs: environments stepped together.
        iteration_steps: agent steps between evaluations.
        gamma: discount of one agent step.
        optimizer: of the network's parameters.
        learning_rate_decay_steps: agent steps in which its learning rate falls to 0, on a straight
            line; None: it is constant.
        max_grad_norm: largest L2 norm of the gradient over all parameters, > 0; None: no limit.
        entropy_coef: weight of the entropy in the loss.
        reward_scale: learning sees rewards times this.
        spike_gradient: surrogate or score_function.

    Attributes:
        updates: gradient steps made.
        generator: where a network that draws draws from while it acts and learns.
        tape: keeps the policy's spikes; None under surrogates.

    Raises:
        Refused: spikes of this network have no score.
    """

    continuous_head = "policy"
    head_gains: ClassVar[Mapping[str, float]] = {"policy": 0.01}
    tape: SpikeTape | None = None

    def __init__(
        self,
        network: nn.Module,
        env: EnvSpec,
        *,
        seed: int,
        num_envs: int,
        iteration_steps: int,
        gamma: float,
        optimizer: torch.optim.Optimizer,
        learning_rate_decay_steps: int | None,
        max_grad_norm: float | None,
        entropy_coef: float,
        reward_scale: float,
        spike_gradient: str = "surrogate",
    ) -> None:
        super().__init__(
            network, env, seed=seed, num_envs=num_envs, iteration_steps=iteration_steps
        )
        if spike_gradient == "score_function":
            if refused := without_score(self.network):
                raise refused
            self.tape = SpikeTape(cast(list[Bernoulli], policy_neurons(self.network)))
            self.learns_by_gradient = False
        self.gamma, self.max_grad_norm = gamma, max_grad_norm
        self.entropy_coef, self.reward_scale = entropy_coef, reward_scale
        self.optimizer = optimizer
        begin = optimizer.param_groups[0]["lr"]
        end = begin if learning_rate_decay_steps is None else 0.0
        self.learning_rate = LinearSchedule(begin, end, learning_rate_decay_steps or 1)
        self.updates = 0
        self._policy: Policy = (
            Gaussian(network, env.action_box)
            if env.action_box is not None
            else Sampled(network, env.num_actions)
        )
        self._explore, self._shuffle = stream(seed, "explore"), stream(seed, "shuffle")
        self.generator = torch.Generator(self.device).manual_seed(stream_seed(seed, "encoder"))
        self._policy.generator = self.generator
        self._seen: Tensor | None = None

    @abstractmethod
    def loss(self, batch: Batch, outputs: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, 0-d, and metrics, 0-d without gradient.

        It depends on the network's parameters through its outputs alone.

        Args:
            batch: what was done.
            outputs: what the network answers now, (B, K) by head; under score_function beside them
                "spike_log_prob" (B,), log P of the batch's spikes.
        """

    def spike_loss(
        self, outputs: Mapping[str, Tensor], weights: Tensor, entropy: Tensor
    ) -> Tensor | float:
        """What the spikes' own score adds to a loss; 0 under surrogates.

        Args:
            outputs: as for `loss`.
            weights: (B,) w of log pi(a|h).
            entropy: (B,) H, a cost of the spikes as the weights are.
        """
        if self.tape is None:
            return 0.0
        earned = weights + self.entropy_coef * entropy.detach()
        return -(earned * outputs["spike_log_prob"]).mean()

    def act(self, observations: Array, step: int) -> Decision:
        """Draw an action for each environment."""
        with self.recording() as extras:
            actions = self._policy.act(observations, self._explore).actions
        return Decision(actions, extras)

    @contextmanager
    def recording(self) -> Iterator[dict[str, Array]]:
        """What learning needs of the network's call inside, there when it is over.

        That is "spikes" (N, bytes) under score_function, and nothing under surrogates.
        """
        extras: dict[str, Array] = {}
        if self.tape is None:
            yield extras
            return
        with self.tape.recording():
            yield extras
        extras["spikes"] = self.tape.bits.cpu().numpy()

    def judged(self, outputs: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Log pi(a|s) of the actions, and the policy's entropy, (B,) each; see `losses`.

        Args:
            outputs: (B, A) or (B, 2D), of the policy's head.
            actions: (B,) or (B, D).
        """
        if self.env.action_box is not None:
            return gaussian(outputs, actions)
        return categorical(outputs, actions)

    def anneal(self, step: int) -> None:
        """Give the optimizer the learning rate of agent step `step`."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(step)

    def update(self, batch: Batch) -> dict[str, Tensor | float]:
        """Make one gradient step; its metrics, 0-d, with "grad/norm": L2 norm before clipping."""
        self._seen = batch["observations"]
        grad_norm: Tensor | float
        if (engine := self.engine) is not None:
            # The loss is torch's, of few numbers; the way to them and back is compiled.
            observations = batch["observations"].numpy()
            answered = torch.from_numpy(engine.network.forward(observations)).requires_grad_()
            loss, metrics = self.loss(batch, engine.network.by_head(answered))
            loss.backward()  # type: ignore[no-untyped-call]
            engine.network.backward(observations, cast(Tensor, answered.grad).numpy())
            grad_norm = engine.step(self.max_grad_norm)
        else:
            loss, metrics = self.loss(batch, outputs := self.outputs(batch))
            grad_norm = descend(loss, self.network, self.optimizer, self.max_grad_norm)
            if self.tape is not None:
                metrics["policy/spike_log_prob"] = outputs["spike_log_prob"].detach().mean()
        self.updates += 1
        return {**metrics, "grad/norm": grad_norm}

    def outputs(self, batch: Batch) -> Mapping[str, Tensor]:
        """What the network answers in training mode, as `loss` takes it."""
        self.network.train()
        if self.tape is None:
            return self._by_head(batch)
        with self.tape.repeating(batch["spikes"]):
            by_head = self._by_head(batch)
        return {**by_head, "spike_log_prob": self.tape.log_prob}

    def _by_head(self, batch: Batch) -> Mapping[str, Tensor]:
        outputs = self.network(batch["observations"], generator=self.generator)
        return outputs if isinstance(outputs, dict) else {"policy": outputs}

    def sample(self, rng: np.random.Generator) -> Tensor | None:
        """Observations of the last batch; None before the first."""
        return self._seen

    def state_dict(self) -> dict[str, Any]:
        """Network, optimizer, number of updates and random streams, as plain containers.

        Like that of a module it shares memory with the agent: write or copy it before going on.
        """
        return super().state_dict() | {
            "updates": self.updates,
            "generator": self.generator.get_state(),
            "explore": self._explore.bit_generator.state,
            "shuffle": self._shuffle.bit_generator.state,
            "seen": self._seen,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state made by `state_dict` of an agent built alike.

        Generators of different kinds of device have different states: moved to another kind, the
        encoder draws from the stream that this agent was built with.
        """
        super().load_state_dict(state)
        self.updates, self._seen = state["updates"], state["seen"]
        self._explore.bit_generator.state = state["explore"]
        self._shuffle.bit_generator.state = state["shuffle"]
        restore(self.generator, state["generator"])

    @staticmethod
    def heads(num_actions: int, arguments: Arguments) -> dict[str, int]:
        """One logit for each action, or one mean for each number."""
        return {"policy": num_actions}

    @staticmethod
    def policy(
        network: nn.Module,
        actions: ActionSpace,
        *,
        epsilon: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Policy:
        """Drawn as in training, but for epsilon; of continuous actions the mean."""
        kind = Sampled if isinstance(actions, int) else Mean
        return kind(network, actions, epsilon=epsilon, generator=generator)

    @staticmethod
    def problems(arguments: Arguments, run: RunFacts) -> list[Refused]:
        """A rollout must fit minibatches and run, the decay the run; scored spikes need a score."""
        found = rollout_problems(arguments, run)
        if arguments.get("spike_gradient") == "score_function" and run.network is not None:
            refused = without_score(run.network)
            found += [] if refused is None else [refused]
        return found


class ActorCritic(PolicyAgent):
    """Learns from rollouts by advantages, which the values of its second head make.

    A rollout is M = `rollout_steps` steps of N environments. While acting, v_t = V(s_t) is kept, in
    evaluation mode. With it, once v_M is known::

        delta_t = r_t + d_t v_{t+1} - v_t
        A_t     = delta_t + gae_lambda d_t A_{t+1},  R_t = A_t + v_t
        r_t     = reward_scale * reward
        d_t     = gamma, or 0 after a terminal step

    The sum of a truncated episode ends with the value of its final observation. Steps of a rollout
    are shuffled `epochs` times and cut into `minibatches` parts, an update for each; steps that
    only start an episode are left out. v_M is known when the next rollout's first actions are
    drawn, so these are drawn before the update.

    Args:
        network: called as network(observations, generator=...) -> {"policy": (B, A) or (B, 2D),
            "value": V (B, 1)}.
        env: the environment's shapes.
        rollout_steps: M.
        epochs: passes over a rollout.
        minibatches: updates of a pass.
        gae_lambda: 0: advantages of one step; 1: rewards until the rollout's end.
        value_coef: weight of the values' loss.
        settings: see `PolicyAgent`.

    Source: Schulman et al. 2016 (arXiv 1506.02438).
    """

    head_gains: ClassVar[Mapping[str, float]] = {"policy": 0.01, "value": 1.0}

    def __init__(
        self,
        network: nn.Module,
        env: EnvSpec,
        *,
        rollout_steps: int,
        epochs: int = 1,
        minibatches: int = 1,
        gae_lambda: float,
        value_coef: float,
        **settings: Any,
    ) -> None:
        super().__init__(network, env, **settings)
        self.epochs, self.minibatches = epochs, minibatches
        self.gae_lambda, self.value_coef = gae_lambda, value_coef
        self.rollout = Rollout(rollout_steps)

    @torch.no_grad()
    def answers(self, observations: Array) -> Mapping[str, Tensor]:
        """Outputs of the policy and values (N, 1) of one vector step, in evaluation mode."""
        if (engine := self.engine) is not None:
            return engine.network.by_head(torch.from_numpy(engine.network.values(observations)))
        # Walking through all modules takes time at each decision.
        if self.network.training:
            self.network.eval()
        inputs = torch.from_numpy(observations).to(self.device)
        outputs = self.network(inputs, generator=self.generator)
        return cast(Mapping[str, Tensor], outputs)

    def act(self, observations: Array, step: int) -> Decision:
        """Draw an action for each environment, and keep what learning needs of the answer."""
        with self.recording() as kept:
            outputs = self.answers(observations)
        choice = self._policy.act(observations, self._explore, outputs=outputs["policy"])
        actions = torch.from_numpy(choice.actions).to(self.device)
        # Kept and not computed again: by the time of learning the policy has moved.
        log_prob, _ = self.judged(outputs["policy"], actions)
        value = outputs["value"].squeeze(1)
        extras = {"value": value.cpu().numpy(), "log_prob": log_prob.cpu().numpy()}
        return Decision(choice.actions, extras | kept)

    def observe(self, row: Row, extras: Mapping[str, Array]) -> None:
        """Add a row to the rollout."""
        self.rollout.append(row, extras)

    def close(self, observations: Array) -> None:
        """End the timeline: running episodes are truncated, with the values of these."""
        with self.recording() as kept:
            value = self.answers(observations)["value"].squeeze(1).cpu().numpy()
        nothing = {"value": value, "log_prob": np.zeros_like(value)}
        self.rollout.close(observations, nothing | kept)

    def learn(self, step: int) -> Iterator[dict[str, Tensor | float]]:
        """Make the updates of a complete rollout, and forget it."""
        while self.rollout.complete:
            lesson = self.lesson()
            explained = explained_variance(lesson["value"], lesson["return"])
            # All updates of a rollout take one rate.
            self.anneal(step)
            for _ in range(self.epochs):
                # Drawn on the CPU, so that a seed shuffles alike on every device.
                order = torch.from_numpy(self._shuffle.permutation(len(lesson["actions"])))
                for index in order.to(self.device).tensor_split(self.minibatches):
                    # Empty where nearly all steps of the rollout only started episodes.
                    if len(index):
                        batch = {name: column[index] for name, column in lesson.items()}
                        yield {**self.update(batch), **explained}
            self.rollout.advance()

    def lesson(self) -> Batch:
        """The valid steps of the complete rollout, in order of time.

        Beside what was seen and done: "value", "log_prob" and, under score_function, "spikes" of
        acting, "advantage" A, "return" R.
        """
        columns = self.rollout.columns()
        value, valid = columns["value"], columns["valid"][:-1]
        # A row that is not valid has the advantage 0: the one before ends with its value.
        advantage = gae(
            np.where(valid, self.reward_scale * columns["rewards"][:-1], value[:-1]),
            np.where(valid & ~columns["terminal"][:-1], self.gamma, 0.0),
            value[:-1],
            value[1:],
            self.gae_lambda,
        )
        kept = ("observations", "actions", "value", "log_prob", "spikes")
        found = {name: columns[name][:-1] for name in kept if name in columns}
        # Summed in double, kept in single: sums of a long rollout lose digits.
        found["advantage"] = advantage.astype(np.float32)
        found["return"] = (advantage + value[:-1]).astype(np.float32)
        return {
            name: torch.from_numpy(column[valid]).to(self.device) for name, column in found.items()
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything, the rollout so far included; it shares memory with the agent."""
        return {**super().state_dict(), "rollout": self.rollout.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state made by `state_dict` of an agent built alike; see `PolicyAgent`."""
        super().load_state_dict(state)
        self.rollout.load_state_dict(state["rollout"])

    @staticmethod
    def heads(num_actions: int, arguments: Arguments) -> dict[str, int]:
        """What `PolicyAgent` has, and one value."""
        return {"policy": num_actions, "value": 1}

    @staticmethod
    def own_torsos(arguments: Arguments) -> tuple[str, ...]:
        """That of the value, unless it shares the policy's."""
        return () if arguments["shared_trunk"] else ("value",)

    @staticmethod
    def memory_bytes(arguments: Arguments, env: EnvSpec) -> int:
        """Bytes of the rollout, which keeps two numbers, and of the copy that is learned from."""
        return rollout_bytes(arguments, env, extras=2)

    @staticmethod
    def updates_made(arguments: Arguments, steps: int) -> int:
        """Those of all rollouts that are followed by another row, steps of all environments."""
        return rollout_updates(arguments, steps)

    @staticmethod
    def problems(arguments: Arguments, run: RunFacts) -> list[Refused]:
        """See `PolicyAgent`; a rollout must fit the memory too."""
        found = PolicyAgent.problems(arguments, run)
        if arguments.get("spike_gradient") == "score_function" and arguments["shared_trunk"]:
            rule = "values of the spikes that are scored are no baseline: the estimate has a bias"
            found.append(Refused("algo.shared_trunk", True, rule, "false"))
        rows, needed = arguments["rollout_steps"], ActorCritic.memory_bytes(arguments, run.env)
        return found + run.too_large("algo.rollout_steps", rows, "a rollout", needed, "cpu")


def explained_variance(values: Tensor, returns: Tensor) -> dict[str, Tensor]:
    """Share 1 - Var(R - V) / Var(R) of the returns' variance; nothing where that is 0; (B,) each.

    Returns:
        "value/explained_variance", at most 1; 0 for values that do not depend on the observation.
    """
    if not len(returns) or not (variance := returns.var(correction=0)) > 0:
        return {}
    return {"value/explained_variance": 1.0 - (returns - values).var(correction=0) / variance}


def policy_neurons(network: "SpikingNetwork") -> list[Neuron]:
    """Neurons whose activity decides: those of the torso and of the policy's head.

    The torso of another head is left out.
    """
    every = [*network.torso.modules(), *network.heads["policy"].modules()]
    return [module for module in every if isinstance(module, Neuron)]


def without_score(network: "SpikingNetwork") -> Refused | None:
    """Why spikes of a network have no score that is that of acting; None: they have one."""
    asked, deciding = "algo.spike_gradient", policy_neurons(network)
    if not all(isinstance(neuron, Bernoulli) for neuron in deciding):
        rule = "is for neurons that draw their spikes with a known probability"
        return Refused(asked, "score_function", rule, "surrogate, or neuron=bernoulli")
    if network.encoder.draws:
        rule = f"needs the input that was acted on, and {type(network.encoder).__name__} draws anew"
        return Refused(asked, "score_function", rule, "surrogate, or encoder=direct")
    if any(True for _ in network.encoder.parameters()):
        rule = "sends no gradient through spikes, which an encoder would learn by"
        return Refused(asked, "score_function", rule, "surrogate, or encoder.learned=false")
    if any(isinstance(module, BatchNorm) for module in network.torso.modules()):
        rule = "needs a network that learns as it acts, and BatchNorm does not"
        return Refused(asked, "score_function", rule, "surrogate, or norm=popnorm")
    return None
