"""REINFORCE: the policy gradient of whole episodes, without values."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor, nn

from sdqn_lab.agents.base import Arguments, Array, EnvSpec, Row, RunFacts
from sdqn_lab.agents.losses import normalized
from sdqn_lab.agents.policy_agent import Batch, PolicyAgent
from sdqn_lab.agents.returns import BoolArray, lambda_returns
from sdqn_lab.checks.ranges import (
    Count,
    NonNegative,
    OneOf,
    Positive,
    Share,
    check_arguments,
)
from sdqn_lab.checks.refused import Refused


class REINFORCE(PolicyAgent):
    """The gradient of log pi(a|s), weighted by what followed until the episode's end.

    Every `rollout_steps` steps of N environments, from the steps of all episodes that have ended
    since the last update::

        G_t = r_t + gamma G_{t+1},  0 after the episode's last step
        G'  = (G - mean G) / (std G + 1e-8)
        L   = mean (-G' log pi(a|s)) - entropy_coef mean H(pi)

    theta <- Adam step on L. Nothing stands in for what would follow a truncated episode, nor for
    that of a running one when environments start anew: no value is learned. A running episode is
    kept until it ends; what it did before an update is then learned from under the policy after.

    Args:
        network: called as network(observations, generator=...) -> (B, A) or (B, 2D).
        env: the environment's shapes.
        seed: of actions ("explore") and of a network that draws ("encoder").
        num_envs: N.
        iteration_steps: agent steps between evaluations.
        rollout_steps: rows between updates; an update is left out if no episode has ended.
        gamma: discount of one agent step.
        normalize_returns: whether the G of an update are brought to mean 0 and deviation 1.
        entropy_coef: weight of the entropy.
        learning_rate: Adam's at step 0.
        learning_rate_decay_steps: agent steps in which it falls to 0, on a straight line; None: it
            is constant.
        adam_eps: Adam's epsilon.
        max_grad_norm: largest L2 norm of the gradient over all parameters; None: no limit.
        reward_scale: learning sees rewards times this; of no effect if returns are normalized.
        spike_gradient: surrogate, or score_function (`neuron=bernoulli`); see `PolicyAgent`.

    Attributes:
        rows: those that hold steps of running episodes, and those since the last update.
        extras: for each row, what acting computed for it.
        fresh: (N,) for each row, which of its steps were not learned from yet.

    Raises:
        Refused: an argument outside its range.

    Source: Williams 1992; returns normalized as in Norse's task of CartPole.
    """

    def __init__(
        self,
        network: nn.Module,
        env: EnvSpec,
        *,
        seed: int,
        num_envs: Count = 8,
        iteration_steps: Count = 20_000,
        rollout_steps: Count = 128,
        gamma: Share = 0.99,
        normalize_returns: bool = True,
        entropy_coef: NonNegative = 0.0,
        learning_rate: Positive = 1e-3,
        learning_rate_decay_steps: Count | None = None,
        adam_eps: Positive = 1e-8,
        max_grad_norm: Positive | None = None,
        reward_scale: Positive = 1.0,
        spike_gradient: Annotated[str, OneOf("surrogate", "score_function")] = "surrogate",
    ) -> None:
        check_arguments(REINFORCE.__init__, locals())
        super().__init__(
            network,
            env,
            seed=seed,
            num_envs=num_envs,
            iteration_steps=iteration_steps,
            gamma=gamma,
            entropy_coef=entropy_coef,
            optimizer=torch.optim.Adam(network.parameters(), lr=learning_rate, eps=adam_eps),
            learning_rate_decay_steps=learning_rate_decay_steps,
            max_grad_norm=max_grad_norm,
            reward_scale=reward_scale,
            spike_gradient=spike_gradient,
        )
        self.rollout_steps, self.normalize_returns = rollout_steps, normalize_returns
        self.rows: list[Row] = []
        self.extras: list[Mapping[str, Array]] = []
        self.fresh: list[BoolArray] = []
        self._since_update = 0

    def observe(self, row: Row, extras: Mapping[str, Array]) -> None:
        """Keep a row until the episodes in it have ended and are learned from."""
        self.rows.append(row)
        self.extras.append(extras)
        self.fresh.append(row.valid)
        self._since_update += 1

    def close(self, observations: Array) -> None:
        """Running episodes end here."""
        if not self.rows:  # none is running
            return
        n = len(observations)
        nothing, rewards = np.zeros(n, np.bool_), np.zeros(n, np.float32)
        self.rows.append(Row(observations, self.env.no_actions(n), rewards, nothing, nothing))
        self.extras.append({name: np.zeros_like(v) for name, v in self.extras[-1].items()})
        self.fresh.append(nothing)

    def learn(self, step: int) -> Iterator[dict[str, Tensor | float]]:
        """Make the update that is due, if an episode has ended since the last."""
        if self._since_update < self.rollout_steps:
            return
        # Without an ended episode the update is left out and not put off.
        self._since_update = 0
        lesson = self.lesson()
        if len(lesson["actions"]):
            self.anneal(step)
            yield self.update(lesson)

    def lesson(self) -> Batch:
        """The steps of episodes that have ended, with "return" G; given once, then forgotten."""
        rows, fresh = _columns(self.rows), np.stack(self.fresh)
        # A row that is not valid shows where an episode was truncated, and is the end of the sum.
        returns = lambda_returns(
            np.where(rows.valid, self.reward_scale * rows.rewards, 0.0),
            np.where(rows.valid & ~rows.terminal, self.gamma, 0.0),
            np.zeros(rows.valid.shape),
            1.0,
        )
        ends = rows.terminal | ~rows.valid
        ended = np.logical_or.accumulate(ends[::-1], axis=0)[::-1]
        found = {
            "observations": rows.observations,
            "actions": rows.actions,
            "return": returns.astype(np.float32),
            **_kept(self.extras),
        }
        lesson = {name: torch.from_numpy(c[fresh & ended]) for name, c in found.items()}
        # Rows before the first step of a running episode are not needed any more.
        left = fresh & ~ended
        first = int(left.any(axis=1).argmax()) if left.any() else len(left)
        self.rows, self.extras = self.rows[first:], self.extras[first:]
        self.fresh = list(left[first:])
        return {name: column.to(self.device) for name, column in lesson.items()}

    def loss(self, batch: Batch, outputs: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """See `PolicyAgent`.

        Metrics: "loss/policy" mean (-G' log pi), "policy/entropy" mean H in nats.
        """
        log_prob, entropy = self.judged(outputs["policy"], batch["actions"])
        returns = normalized(batch["return"]) if self.normalize_returns else batch["return"]
        of_policy, bonus = -(returns * log_prob).mean(), entropy.mean()
        loss = of_policy - self.entropy_coef * bonus
        loss = loss + self.spike_loss(outputs, returns, entropy)
        return loss, {"loss/policy": of_policy.detach(), "policy/entropy": bonus.detach()}

    def state_dict(self) -> dict[str, Any]:
        """Everything, running episodes included; it shares memory with the agent."""
        rows = _columns(self.rows)._asdict() if self.rows else {}
        own = {
            "rows": rows,
            "extras": _kept(self.extras),
            "fresh": np.array(self.fresh, np.bool_),
            "since_update": self._since_update,
        }
        return super().state_dict() | own

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state made by `state_dict` of an agent built alike; see `PolicyAgent`."""
        super().load_state_dict(state)
        self.fresh, self._since_update = list(state["fresh"]), state["since_update"]
        columns = [state["rows"][name] for name in Row._fields] if self.fresh else []
        self.rows = [Row(*parts) for parts in zip(*columns, strict=True)]
        # Earlier versions kept none.
        kept = state.get("extras", {}).items()
        self.extras = [{name: column[i] for name, column in kept} for i in range(len(self.rows))]

    @staticmethod
    def memory_bytes(arguments: Arguments, env: EnvSpec) -> int:
        """Bytes of an iteration's steps, all in one episode, and of the copy to learn from."""
        row = torch.Size(env.observation_shape).numel() * env.dtype.itemsize
        others = env.no_actions(1).nbytes + 4 + 1 + 1 + 1  # rewards, terminal, valid, fresh
        return 2 * int(arguments["iteration_steps"] * (row + others))

    @staticmethod
    def updates_made(arguments: Arguments, steps: int) -> int:
        """As many as are due, steps of all environments; there are fewer if episodes are longer."""
        return int(-(-steps // arguments["num_envs"]) // arguments["rollout_steps"])

    @staticmethod
    def problems(arguments: Arguments, run: RunFacts) -> list[Refused]:
        """A rollout must fit the run, the longest episode the memory, the decay the run."""
        steps, needed = arguments["iteration_steps"], REINFORCE.memory_bytes(arguments, run.env)
        what = "an episode of a whole iteration"
        found = run.too_large("algo.iteration_steps", steps, what, needed, "cpu")
        return PolicyAgent.problems(arguments, run) + found


def _columns(rows: list[Row]) -> Row:
    """Rows as arrays of them all, time first."""
    return Row(*(np.stack(column) for column in zip(*rows, strict=True)))


def _kept(extras: list[Mapping[str, Array]]) -> dict[str, Array]:
    """What acting computed for rows, by column, time first."""
    names = extras[0] if extras else ()
    return {name: np.stack([each[name] for each in extras]) for name in names}
