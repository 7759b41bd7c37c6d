"""What agents share that learn by gradient steps, in compiled code where it covers them."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from sdqn_lab.agents.base import Agent
from sdqn_lab.engines.network import compiled, obstacle
from sdqn_lab.engines.optimizer import CompiledOptimizer, optimizer_obstacle


class GradientAgent(Agent):
    """Learns by the steps of one optimizer, `optimizer`, which a class derived from it sets.

    Its updates are made by `engine`, and by torch where that is None.
    """

    has_compiled_updates = True
    optimizer: torch.optim.Optimizer
    _engine: CompiledOptimizer | None = None

    @cached_property
    def _is_covered(self) -> bool:
        lacking = optimizer_obstacle(self.optimizer, self.network)
        return compiled(self.network) is not None and lacking is None

    @property
    def engine(self) -> CompiledOptimizer | None:
        """What makes an update in compiled code; None where only torch can."""
        if not self._is_covered:
            return None
        if self._engine is not None and self._engine.network.attached:
            return self._engine
        # Parameters were moved, or a hook wants to be called: what is next goes on from here.
        if self._engine is not None:
            self._engine.store()
        network = compiled(self.network)
        self._engine = None if network is None else CompiledOptimizer(network, self.optimizer)
        return self._engine

    @property
    def general_path(self) -> str | None:
        """See `Agent`."""
        if self.engine is not None:
            return None
        return obstacle(self.network) or optimizer_obstacle(self.optimizer, self.network)

    def gradient_norms(self) -> Mapping[str, Tensor | float]:
        """See `Agent`."""
        return super().gradient_norms() if self.engine is None else self.engine.norms

    def state_dict(self) -> dict[str, Any]:
        """Network and optimizer, as plain containers.

        Like that of a module it shares memory with the agent: write or copy it before going on.
        """
        if self.engine is not None:
            self.engine.store()
        return {
            "network": dict(self.network.state_dict()),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state made by `state_dict` of an agent built alike."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        # In its parameter's order in memory, upon which torch's fused steps rely, and its own.
        for parameter, moments in self.optimizer.state.items():
            for key, moment in moments.items():
                if moment.shape == parameter.shape:
                    moments[key] = torch.empty_like(parameter).copy_(moment)
        if self.engine is not None:
            self.engine.load()
