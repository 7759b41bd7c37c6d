"""Memory of an agent that learns from what it has just done and then forgets it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from sdqn_lab.agents.base import Arguments, Array, EnvSpec, Row, RunFacts
from sdqn_lab.checks.ranges import Count, check_arguments
from sdqn_lab.checks.refused import Refused


class Rollout:
    """The last M steps of N environments, and what acting computed at each (`extras`).

    The timeline is that of replay: the observation after row t is that of row t + 1, whatever
    happens. A row that is not `valid` shows an observation and is no transition: the last one of an
    episode (the step that merely starts a new episode) or, after `close`, of an iteration. Hence

    * the row after a truncated one is not valid, and what acting computed there, e.g. its value,
      belongs to the truncated episode's final observation,
    * M rows can be learned from once a row after them is there.

    Learning comes after acting, so up to two rows may follow the M: after a `close`, which nobody
    learns from at once, also the first of the next iteration.

    Args:
        num_steps: M.

    Raises:
        Refused: M below 1; a row with other extras than the ones before.
    """

    def __init__(self, num_steps: Count) -> None:
        check_arguments(Rollout.__init__, locals())
        self.num_steps = num_steps
        self.rows = 0
        self._columns: dict[str, Array] = {}

    @property
    def complete(self) -> bool:
        """Whether M rows are there, and the row after them."""
        return self.rows > self.num_steps

    def append(self, row: Row, extras: Mapping[str, Array]) -> None:
        """Add a row, and what acting computed for it, each (N, ...)."""
        columns = {**row._asdict(), **extras}
        if not self._columns:
            shape = (self.num_steps + 2,)
            self._columns = {k: np.empty((*shape, *v.shape), v.dtype) for k, v in columns.items()}
        if columns.keys() != self._columns.keys():
            rule = f"must be those of the rows before: {', '.join(self._columns)}"
            raise Refused("columns", ", ".join(columns), rule)
        for name, values in columns.items():
            self._columns[name][self.rows] = values
        self.rows += 1

    def close(self, observations: Array, extras: Mapping[str, Array]) -> None:
        """End the timeline: episodes still running count as truncated at these observations.

        Args:
            observations: (N, ...) current ones.
            extras: what acting would compute for them.
        """
        nothing = np.zeros(len(observations), np.bool_)
        # In the form of those before: there is no end without a beginning.
        actions = np.zeros_like(self._columns["actions"][0])
        rewards = nothing.astype(np.float32)
        self.append(Row(observations, actions, rewards, nothing, nothing), extras)

    def columns(self) -> dict[str, Array]:
        """The M rows and the one after them by column, (M + 1, N, ...), until `advance`."""
        return {name: column[: self.num_steps + 1] for name, column in self._columns.items()}

    def advance(self) -> None:
        """Forget the M rows; the one after them is the first of the next M."""
        left = self.rows - self.num_steps
        for column in self._columns.values():
            column[:left] = column[self.num_steps : self.rows]
        self.rows = left

    def state_dict(self) -> dict[str, Any]:
        """The rows so far by column; it shares memory with the rollout."""
        return {name: column[: self.rows] for name, column in self._columns.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the rows of a rollout of the same M and N."""
        self.rows, self._columns = 0, {}
        for name, values in state.items():
            self._columns[name] = np.empty((self.num_steps + 2, *values.shape[1:]), values.dtype)
            self.rows = len(values)
            self._columns[name][: self.rows] = values


def rollout_problems(arguments: Arguments, run: RunFacts) -> list[Refused]:
    """A rollout must fit its minibatches and the run, and the learning rate's decay the run.

    Args:
        arguments: of an algorithm with `rollout_steps`, `num_envs`, `learning_rate_decay_steps`,
            and `minibatches` if it has more than one.
        run: what is asked of the run.
    """
    found, rows, num_envs = list[Refused](), arguments["rollout_steps"], arguments["num_envs"]
    parts, steps = arguments.get("minibatches", 1), rows * num_envs
    whole = f"algo.rollout_steps={rows} and algo.num_envs={num_envs}"
    # Of one sample a batch normalization has no statistics.
    if parts > max(1, steps // 2):
        rule = f"leaves less than two of a rollout's {steps} steps to each ({whole})"
        instead = f"{max(1, steps // 2)} or less"
        found.append(Refused("algo.minibatches", parts, rule, instead))
    if run.steps <= steps:
        rule = f"ends before a rollout is complete ({whole})"
        found.append(Refused("budget.steps", run.steps, rule, f"{steps + 1} or more"))
    decay = arguments["learning_rate_decay_steps"]
    if decay is not None and decay < run.steps:
        rule = f"the learning rate is 0 from there on, and budget.steps={run.steps}"
        instead = f"{run.steps} or more, or null"
        found.append(Refused("algo.learning_rate_decay_steps", decay, rule, instead))
    return found


def rollout_bytes(arguments: Arguments, env: EnvSpec, extras: int) -> int:
    """Bytes of a rollout with `extras` float32 numbers a step, and of the copy to learn from."""
    steps = (arguments["rollout_steps"] + 2) * arguments["num_envs"]
    row = torch.Size(env.observation_shape).numel() * env.dtype.itemsize
    # Actions, rewards, terminal, valid, and what acting kept.
    others = env.no_actions(1).nbytes + 4 + 1 + 1 + 4 * extras
    return 2 * int(steps * (row + others))


def rollout_updates(arguments: Arguments, steps: int) -> int:
    """Updates of all rollouts that are followed by another row, steps of all environments."""
    rows = -(-steps // arguments["num_envs"])
    rollouts = max(0, rows - 1) // arguments["rollout_steps"]
    return int(rollouts * arguments.get("epochs", 1) * arguments.get("minibatches", 1))
