"""Deep Q-learning, plain and double, for any network that maps observations to values."""

import copy
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from sdqn_lab.agents.base import Arguments, Array, Decision, EnvSpec, Row, RunFacts
from sdqn_lab.agents.descent import descend
from sdqn_lab.agents.losses import Loss, huber, mse, td_error
from sdqn_lab.agents.q_agent import QAgent
from sdqn_lab.agents.replay import Batch, Replay
from sdqn_lab.agents.schedules import LinearSchedule
from sdqn_lab.agents.seeding import stream
from sdqn_lab.checks.ranges import (
    Count,
    Natural,
    NonNegative,
    Positive,
    Share,
    Weight,
    check_arguments,
)
from sdqn_lab.checks.refused import Refused
from sdqn_lab.engines.cuda_graph import CudaGraph, graph_obstacle
from sdqn_lab.engines.losses import bootstrap, value_gradient
from sdqn_lab.engines.network import compiled

OPTIMIZERS: Mapping[str, type[torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}


class DQN(QAgent):
    """Q-learning with replay, a target network, epsilon-greedy acting and n-step batches.

    One update, with theta the online and theta' the target parameters::

        hard: theta' <- theta if updates % target_update_every_updates == 0 (also at update 0)
        y     = returns + discounts * Q'(next, a*),
                a* = argmax Q(next) if double, else argmax Q'(next)
        theta <- optimizer step on mean loss(y - Q(observation, action))
        soft: theta' <- (1 - target_ema) theta' + target_ema theta; buffers are copied

    After `replay_start_steps` agent steps one update is due every `learn_every_steps`.

    Running statistics move in the forward that is differentiated and nowhere else: it alone sees
    the online network in training mode. Acting, the choice of a* and the target network use
    evaluation mode.

    Args:
        network: called as network(observations, time_window=..., generator=...) -> (B, A); its
            copy is the target network.
        env: the environment's shapes.
        seed: of exploration ("explore"), of replay's draws ("replay") and of a network that draws
            ("encoder").
        num_envs: environments stepped together.
        iteration_steps: agent steps between evaluations.
        double: let the online network choose a*.
        gamma: discount of one agent step.
        n_step: agent steps summed in a return.
        loss: mse (mean of squares) or huber (corner at 1), mean over the batch.
        optimizer: adam or adamw.
        weight_decay: of the optimizer.
        adam_eps: the optimizer's epsilon.
        max_grad_norm: largest L2 norm of the gradient over all parameters; None: no limit.
        batch_size: transitions of an update.
        learn_every_steps: agent steps, over all environments, between updates.
        target_update_every_updates: gradient steps between hard copies; counts for target_ema = 1.
        target_ema: weight of the online network in the soft update after each step, in (0, 1];
            1 stands for hard copies.
        replay_capacity_steps: transitions that replay holds.
        replay_start_steps: agent steps before the first update.
        replay_device: cpu, or device: where replay's frames live.
        epsilon_begin: exploration at the start.
        epsilon_end: exploration from epsilon_decay_steps on; linear between.
        epsilon_decay_steps: agent steps of the decay.

    Raises:
        Refused: an argument outside its range.

    Source: Mnih et al. 2015; van Hasselt, Guez and Silver 2016; the order of target copy and step
    is that of BrainCog's sdqn example (tianshou 0.4.5).
    """

    parameter_copies = 5  # the online network's four, and the target network
    memory: Replay

    def __init__(
        self,
        network: nn.Module,
        env: EnvSpec,
        *,
        seed: int,
        num_envs: Count = 8,
        iteration_steps: Count = 250_000,
        double: bool = False,
        gamma: Share = 0.99,
        n_step: Count = 1,
        loss: Loss = "mse",
        optimizer: Literal["adam", "adamw"] = "adam",
        learning_rate: Positive = 1e-4,
        weight_decay: NonNegative = 0.0,
        adam_eps: Positive = 1e-8,
        max_grad_norm: Positive | None = None,
        batch_size: Count = 32,
        learn_every_steps: Count = 4,
        target_update_every_updates: Count = 1_000,
        target_ema: Weight = 1.0,
        replay_capacity_steps: Count = 100_000,
        replay_start_steps: Natural = 5_000,
        replay_device: Literal["cpu", "device"] = "cpu",
        epsilon_begin: Share = 1.0,
        epsilon_end: Share = 0.05,
        epsilon_decay_steps: Count = 250_000,
    ) -> None:
        check_arguments(DQN.__init__, locals())
        super().__init__(
            network,
            env,
            seed=seed,
            num_envs=num_envs,
            iteration_steps=iteration_steps,
            epsilon=LinearSchedule(epsilon_begin, epsilon_end, epsilon_decay_steps),
            max_grad_norm=max_grad_norm,
        )
        # A copy, so that weights are drawn once: a second draw would move the stream `init`.
        self.target_network = copy.deepcopy(network).requires_grad_(False).eval()
        self.optimizer = OPTIMIZERS[optimizer](
            network.parameters(),
            lr=learning_rate,
            eps=adam_eps,
            weight_decay=weight_decay,
            fused=True,
        )  # type: ignore[call-arg]
        self.double, self.gamma, self.n_step = double, gamma, n_step
        self.batch_size, self.learn_every_steps = batch_size, learn_every_steps
        self.target_update_every_updates, self.target_ema = target_update_every_updates, target_ema
        self.replay_start_steps = replay_start_steps
        self.memory = Replay(
            replay_capacity_steps,
            num_envs,
            env.frame_shape,
            env.stack,
            dtype=env.dtype,
            device=self.device if replay_device == "device" else "cpu",
        )
        self._loss = mse if loss == "mse" else huber
        self._draws = stream(seed, "replay")
        self._norms: Mapping[str, Tensor] = {}
        self._graph: CudaGraph[tuple[dict[str, Tensor], Mapping[str, Tensor]]] | None = None
        if graph_obstacle(self.network) is None:
            self._graph = CudaGraph(
                lambda *batch: (self._torch_step(Batch(*batch)), self.network.gradient_norms()),
                *(self.network, self.target_network),
            )

    @property
    def general_path(self) -> str | None:
        """See `Agent`; on a GPU an update is one CUDA graph."""
        if self._graph is not None:
            return None
        return super().general_path if self.device.type == "cpu" else graph_obstacle(self.network)

    def gradient_norms(self) -> Mapping[str, Tensor | float]:
        """See `Agent`."""
        return super().gradient_norms() if self._graph is None else self._norms

    def act(self, observations: Array, step: int) -> Decision:
        """Choose actions epsilon-greedily, for each environment on its own."""
        return Decision(self.explore(observations, step).actions, {})

    def observe(self, row: Row, extras: Mapping[str, Array]) -> None:
        """Keep the newest frame of what was seen, the action and what followed."""
        newest = row.observations[:, -self.env.frame_shape[0] :]
        self.memory.append(newest, row.actions, row.rewards, terminal=row.terminal, valid=row.valid)

    def close(self, observations: Array) -> None:
        """End the timeline: running episodes count as truncated."""
        self.memory.close(observations[:, -self.env.frame_shape[0] :])

    def learn(self, step: int) -> Iterator[Mapping[str, Tensor | float]]:
        """Make the updates that are due, each on a batch of its own."""
        # Owed since the run's start, not since the last call: what was not drawable yet is made up
        # for, the ratio to steps is exact (docs/DEVIATIONS.md, row 30), also after a resume.
        due = max(0, step - self.replay_start_steps) // self.learn_every_steps
        while self.updates < due and self.memory.can_sample(self.batch_size, self.n_step):
            batch = self.memory.sample(self.batch_size, self.n_step, self.gamma, self._draws)
            yield self.update(batch)

    def update(self, batch: Batch) -> Mapping[str, Tensor | float]:
        """Make one gradient step.

        Returns:
            Numbers, or 0-d tensors that stay on the device: "loss/td", "q/mean" (mean of Q over the
            batch at the actions taken) and "grad/norm" (L2 over all parameters, before clipping).
        """
        online, target = self.network, self.target_network
        # Before the step and at update 0, as in the original (docs/DEVIATIONS.md, row 33). A
        # state dict also holds running statistics, without which copied weights answer otherwise.
        if self.target_ema == 1.0 and self.updates % self.target_update_every_updates == 0:
            target.load_state_dict(online.state_dict())
        metrics: Mapping[str, Tensor | float]
        if self.engine is not None:
            metrics = self._compiled_step(batch)
        elif self._graph is not None:
            metrics, self._norms = self._graph(*batch)
        else:
            metrics = self._torch_step(batch.to(self.device))
        self.updates += 1
        if self.target_ema < 1.0:
            with torch.no_grad():
                for old, new in zip(target.parameters(), online.parameters(), strict=True):
                    old.lerp_(new, self.target_ema)
            for buffer, source in zip(target.buffers(), online.buffers(), strict=True):
                buffer.copy_(source)
        return metrics

    def _torch_step(self, batch: Batch) -> dict[str, Tensor]:
        online, target = self.network, self.target_network
        # Target and a* come first: an encoder that draws draws in this order.
        with torch.no_grad():
            next_q = target(batch.next_observations, generator=self.generator)
            selector_q = None
            if self.double:
                selector_q = online.eval()(batch.next_observations, generator=self.generator)
        q = online.train()(batch.observations, generator=self.generator)
        loss, mean_q = self.td_loss(batch, next_q, selector_q, q)
        grad_norm = descend(loss, self.network, self.optimizer, self.max_grad_norm)
        return {"loss/td": loss.detach(), "q/mean": mean_q, "grad/norm": grad_norm}

    def td_loss(
        self, batch: Batch, next_q: Tensor, selector_q: Tensor | None, q: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What an update descends on, out of outputs of networks, (B, K) each.

        Args:
            batch: of B transitions, on the device of the outputs.
            next_q: of the target network, at the next observations.
            selector_q: of the online network there, which chooses a*; None: plain Q-learning.
            q: of the online network at the observations; it alone carries a gradient.

        Returns:
            The loss, and the mean of Q over the batch at the actions taken, without a graph; 0-d.
        """
        returns = batch.actions, batch.returns, batch.discounts
        loss = self._loss(td_error(q, *returns, next_q_online=selector_q, next_q_target=next_q))
        return loss, q.detach().gather(1, batch.actions.unsqueeze(1)).mean()

    def _compiled_step(self, batch: Batch) -> dict[str, Tensor | float]:
        next_observations = batch.next_observations.numpy()
        online, target = compiled(self.network), compiled(self.target_network)
        assert online is not None
        if target is not None:
            next_q = target.values(next_observations)
        else:  # only its own parameters were moved, or a hook wants it to be called
            with torch.no_grad():
                next_q = self.target_network(batch.next_observations).numpy()
        selector_q = online.values(next_observations) if self.double else next_q
        loss = partial(self.compiled_loss, batch, next_q, selector_q)
        return self.compiled_step(batch.observations.numpy(), loss)

    def compiled_loss(
        self, batch: Batch, next_q: Array, selector_q: Array, q: Array, of_q: Array, numbers: Array
    ) -> None:
        """`td_loss` with its gradient by compiled code; selector_q is next_q if not double.

        Args:
            batch: of B transitions, on the CPU.
            next_q: (B, K), as all outputs.
            selector_q: likewise.
            q: likewise.
            of_q: (B, K), receives the gradient of the loss.
            numbers: (2,), receives the loss and the mean of Q.
        """
        _, actions, returns, discounts, _ = (column.numpy() for column in batch)
        targets = np.empty_like(next_q[:, 0])
        bootstrap(returns, discounts, next_q, selector_q, targets)
        value_gradient(q, actions, targets, self._loss is huber, 1.0, of_q, numbers)

    def sample(self, rng: np.random.Generator) -> Tensor | None:
        """Observations of one batch of replay."""
        if not self.memory.can_sample(self.batch_size, self.n_step):
            return None
        return self.memory.sample(self.batch_size, self.n_step, self.gamma, rng).observations

    def state_dict(self) -> dict[str, Any]:
        """Everything but replay's rows; it shares memory with the agent."""
        return {
            **super().state_dict(),
            "target_network": dict(self.target_network.state_dict()),
            "draws": self._draws.bit_generator.state,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state made by `state_dict` of an agent built alike; see `QAgent`."""
        super().load_state_dict(state)
        if self._graph is not None:
            self._graph.forget()
        self.target_network.load_state_dict(state["target_network"])
        self._draws.bit_generator.state = state["draws"]

    @staticmethod
    def memory_bytes(arguments: Arguments, env: EnvSpec) -> int:
        """Bytes of replay."""
        steps, num_envs = arguments["replay_capacity_steps"], arguments["num_envs"]
        return Replay.bytes_needed(steps, num_envs, env.frame_shape, env.dtype)

    @staticmethod
    def updates_made(arguments: Arguments, steps: int) -> int:
        """One every `learn_every_steps` after the start."""
        learning = max(0, steps - arguments["replay_start_steps"])
        return int(learning // arguments["learn_every_steps"])

    @staticmethod
    def problems(arguments: Arguments, run: RunFacts) -> list[Refused]:
        """Batch, start and exploration must fit replay and each other, replay the memory."""
        batch, start = arguments["batch_size"], arguments["replay_start_steps"]
        num_envs, n_step = arguments["num_envs"], arguments["n_step"]
        key, capacity = "algo.replay_capacity_steps", arguments["replay_capacity_steps"]
        found = []
        stored = batch + n_step * num_envs
        if batch > capacity:
            rule, instead = f"larger than replay ({key}={capacity})", str(min(32, capacity))
            found.append(Refused("algo.batch_size", batch, rule, instead))
        elif run.steps < stored:
            rule = f"more than the run ever stores (budget.steps={run.steps}), so it cannot learn"
            found.append(Refused("algo.batch_size", batch, rule, f"budget.steps={stored} or more"))
        if start > capacity:
            rule, instead = f"more than replay holds ({key}={capacity})", f"{capacity} or less"
            found.append(Refused("algo.replay_start_steps", start, rule, instead))
        if run.steps <= start:
            rule = f"ends before learning starts (algo.replay_start_steps={start})"
            found.append(Refused("budget.steps", run.steps, rule, f"{start + 1} or more"))
        found += QAgent.problems(arguments, run)
        # Not drawable: rows whose window is incomplete, at both ends, and some between episodes. A
        # full replay that can never be drawn from would let learning wait for ever.
        least = batch + (n_step + run.env.stack + 1) * num_envs
        if not found and capacity < least:
            rule = f"too few for algo.num_envs={num_envs}, algo.n_step={n_step} and "
            rule += f"algo.batch_size={batch}"
            found.append(Refused(key, capacity, rule, f"{least} or more"))
        needed = DQN.memory_bytes(arguments, run.env)
        return found or run.too_large(key, capacity, "replay", needed, arguments["replay_device"])
