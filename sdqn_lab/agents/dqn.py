"""Deep Q-learning, plain and double, for any network that maps observations to values."""

from collections.abc import Mapping
from typing import Any, cast, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from sdqn_lab.agents.losses import Loss, huber, mse, td_error
from sdqn_lab.agents.replay import Batch


class DQN:
    """Q-learning with a target network, epsilon-greedy acting and n-step batches.

    One update, with theta the online and theta' the target parameters::

        hard: theta' <- theta if updates % target_update_every_updates == 0 (also at update 0)
        y     = returns + discounts * Q'(next, a*),
                a* = argmax Q(next) if double, else argmax Q'(next)
        theta <- optimizer step on mean loss(y - Q(observation, action))
        soft: theta' <- (1 - target_ema) theta' + target_ema theta; buffers are copied

    Running statistics move in the forward that is differentiated and nowhere else: it alone sees
    the online network in training mode. Acting, the choice of a* and the target network use
    evaluation mode.

    Args:
        network: called as network(observations, time_window=..., generator=...) -> (B, A).
        target_network: of the same structure; its state is overwritten with `network`'s.
        optimizer: over the parameters of `network`.
        num_actions: A, >= 1.
        double: let the online network choose a*.
        loss: "mse" (mean of squares) or "huber" (corner at 1).
        target_update_every_updates: gradient steps between hard copies, >= 1; counts for
            target_ema = 1 only.
        target_ema: weight of the online network in the soft update after each step, in (0, 1];
            1 stands for hard copies.
        max_grad_norm: largest L2 norm of the gradient over all parameters, > 0; None: no limit.
        generator: random source of a network that draws (Poisson encoder).

    Raises:
        ValueError: an argument outside its range.

    Source: Mnih et al. 2015; van Hasselt, Guez and Silver 2016; the order of target copy and step
    is that of BrainCog's sdqn example (tianshou 0.4.5).
    """

    def __init__(
        self,
        network: nn.Module,
        target_network: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        num_actions: int,
        double: bool,
        loss: Loss,
        target_update_every_updates: int,
        target_ema: float = 1.0,
        max_grad_norm: float | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        _check_at_least_one("num_actions", num_actions)
        _check_at_least_one("target_update_every_updates", target_update_every_updates)
        if loss not in get_args(Loss):
            raise ValueError(f"loss must be one of {', '.join(get_args(Loss))}, got {loss}")
        if not 0.0 < target_ema <= 1.0:
            raise ValueError(f"target_ema must lie in (0, 1], got {target_ema}")
        if max_grad_norm is not None and not max_grad_norm > 0.0:
            raise ValueError(f"max_grad_norm must be > 0, got {max_grad_norm}")
        self.network = network
        self.target_network = target_network.requires_grad_(False).eval()
        self.optimizer = optimizer
        self.num_actions = num_actions
        self.double = double
        self.target_update_every_updates = target_update_every_updates
        self.target_ema = target_ema
        self.max_grad_norm = max_grad_norm
        self.generator = generator
        self.updates = 0
        self._loss = mse if loss == "mse" else huber
        self._copy_to_target()

    @property
    def device(self) -> torch.device:
        """Device of the online network."""
        return next(self.network.parameters()).device

    def act(
        self,
        observations: npt.NDArray[Any],
        epsilon: float,
        rng: np.random.Generator,
        time_window: int | None = None,
    ) -> npt.NDArray[np.int64]:
        """Choose actions epsilon-greedily, for each environment on its own.

        The two draws from `rng` are the same whatever epsilon is, so that the stream stays in
        step with the calls. Of equal values the first action is taken.

        Args:
            observations: (N, *observation_shape).
            epsilon: probability of a uniformly random action, in [0, 1].
            rng: source of exploration.
            time_window: simulation steps; None: the network's own.

        Returns:
            (N,) int64 actions.
        """
        explore = rng.random(len(observations)) < epsilon
        actions = rng.integers(self.num_actions, size=len(observations))
        if explore.all():
            return actions
        greedy = self.q_values(observations, time_window).argmax(dim=1).cpu().numpy()
        return np.where(explore, actions, greedy)

    @torch.no_grad()
    def q_values(self, observations: npt.NDArray[Any], time_window: int | None = None) -> Tensor:
        """Values (N, A) of observations (N, *observation_shape), on the network's device."""
        inputs = torch.from_numpy(observations).to(self.device, non_blocking=True)
        return self._values(self.network.eval(), inputs, time_window)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """Make one gradient step.

        Returns:
            0-d tensors that stay on the device: "loss/td", "q/mean" (mean of Q over the batch at
            the actions taken) and "grad/norm" (L2 over all parameters, before clipping).
        """
        if self.target_ema == 1.0 and self.updates % self.target_update_every_updates == 0:
            self._copy_to_target()
        batch = batch.to(self.device)
        next_q_online, next_q_target = self._next_values(batch.next_observations)
        q = self._values(self.network.train(), batch.observations)
        error = td_error(
            q,
            batch.actions,
            batch.returns,
            batch.discounts,
            next_q_online=next_q_online,
            next_q_target=next_q_target,
        )
        loss = self._loss(error)
        grad_norm = self._step(loss)
        self.updates += 1
        if self.target_ema < 1.0:
            self._move_target()
        taken = q.detach().gather(1, batch.actions.unsqueeze(1))
        return {"loss/td": loss.detach(), "q/mean": taken.mean(), "grad/norm": grad_norm}

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next call depends on, as tensors in plain containers.

        Like that of a module it shares memory with the agent: write or copy it before going on.
        """
        return {
            "network": dict(self.network.state_dict()),
            "target_network": dict(self.target_network.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "updates": self.updates,
            "generator": None if self.generator is None else self.generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state made by `state_dict` of an agent built alike.

        Generators of different kinds of device have different states: moved to another kind, the
        encoder draws from the stream that this agent was built with.
        """
        self.network.load_state_dict(state["network"])
        self.target_network.load_state_dict(state["target_network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.updates = state["updates"]
        if self.generator is None:
            return
        if self.generator.get_state().shape == state["generator"].shape:
            self.generator.set_state(state["generator"].cpu())

    def _values(self, network: nn.Module, inputs: Tensor, time_window: int | None = None) -> Tensor:
        return cast(Tensor, network(inputs, time_window=time_window, generator=self.generator))

    @torch.no_grad()
    def _next_values(self, inputs: Tensor) -> tuple[Tensor | None, Tensor]:
        target = self._values(self.target_network, inputs)
        return (self._values(self.network.eval(), inputs) if self.double else None), target

    def _step(self, loss: Tensor) -> Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        parameters = [p for p in self.network.parameters() if p.grad is not None]
        norm = get_total_norm(cast(list[Tensor], [p.grad for p in parameters]))
        if self.max_grad_norm is not None:
            clip_grads_with_norm_(parameters, self.max_grad_norm, norm)
        self.optimizer.step()
        return norm

    def _copy_to_target(self) -> None:
        self.target_network.load_state_dict(self.network.state_dict())

    @torch.no_grad()
    def _move_target(self) -> None:
        online, target = self.network, self.target_network
        for old, new in zip(target.parameters(), online.parameters(), strict=True):
            old.lerp_(new, self.target_ema)
        for buffer, source in zip(target.buffers(), online.buffers(), strict=True):
            buffer.copy_(source)


def _check_at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name} must be >= 1, got {value}")
