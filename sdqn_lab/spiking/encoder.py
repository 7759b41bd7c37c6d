"""Encoders: one observation (B, ...) to the input of T simulation steps."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn


class Encoder(nn.Module, ABC):
    """What a network needs to know about its input.

    Attributes:
        constant: whether every step sees the same input; the sequence then has a single entry.
    """

    constant: ClassVar[bool]

    @abstractmethod
    def forward(
        self, x: Tensor, time_window: int, generator: torch.Generator | None = None
    ) -> Tensor:
        """Observations (B, ...) to a sequence (T, B, ...), or (1, B, ...) if constant."""


class Direct(Encoder):
    """The observation as a constant current: x_t = x at every step.

    Source: Sun, Zeng, Li 2022; Rueckauer et al. 2017.
    """

    constant = True

    def forward(
        self, x: Tensor, time_window: int, generator: torch.Generator | None = None
    ) -> Tensor:
        """Observations (B, ...) to (1, B, ...): one entry that stands for all time_window steps."""
        return x.unsqueeze(0)


class Poisson(Encoder):
    """Rate coding: at every step an independent spike with probability x.

    The input must lie in [0, 1]; this is not checked here (it would wait for the GPU at each call).
    A value below 0 never spikes, one above 1 always does.
    """

    constant = False

    def forward(
        self, x: Tensor, time_window: int, generator: torch.Generator | None = None
    ) -> Tensor:
        """Probabilities (B, ...) to spikes (time_window, B, ...).

        The draws come from `generator`, which lives on x's device; None is torch's global one.
        """
        shape = (time_window, *x.shape)
        draws = torch.rand(shape, generator=generator, device=x.device, dtype=x.dtype)
        return (draws < x).to(x.dtype)
