"""Normalizations of the current between a linear map and its neuron.

All share one signature and scale their output to the neuron behind them: a normalized value z
becomes weight * z + bias with weight = v_threshold - v_reset and bias = v_reset at the start, both
trainable. In `forward(x_seq, repeats)` each entry of the leading axis stands for `repeats` equal
simulation steps, so that a constant current is normalized once and counted T times.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdqn_lab.checks.refused import Refused


class Norm(nn.Module, ABC):
    """The shared signature.

    Args:
        normalized_shape: shape of one sample's current, channels first.
        v_threshold: threshold of the neuron behind.
        v_reset: resting value of the neuron behind.
    """

    def __init__(
        self, normalized_shape: Sequence[int], *, v_threshold: float = 1.0, v_reset: float = 0.0
    ) -> None:
        super().__init__()
        self.normalized_shape = tuple(normalized_shape)

    @abstractmethod
    def forward(self, x_seq: Tensor, repeats: int = 1) -> Tensor:
        """Currents (T, B, *normalized_shape) to the same shape."""

    def extra_repr(self) -> str:
        """The shape."""
        return f"{self.normalized_shape}"


class NoNorm(Norm):
    """The identity: no statistics, no parameters. v_threshold and v_reset play no part."""

    def forward(self, x_seq: Tensor, repeats: int = 1) -> Tensor:
        """The input itself."""
        return x_seq


class PopNorm(Norm):
    """Potential-based layer normalization, z = (x - mean) / sqrt(var + eps) per sample and step.

    Mean and (biased) variance are taken over the whole of normalized_shape; weight and bias hold
    one value per element. Nothing is shared over time or batch, nothing differs between training
    and evaluation. With v_threshold 1 and v_reset 0 it is layer normalization.

    Args:
        normalized_shape: shape of one sample's current, for instance (C, H, W).
        v_threshold: threshold of the neuron behind.
        v_reset: resting value of the neuron behind.
        eps: added to the variance, >= 0.

    Raises:
        Refused: eps is negative.

    Source: Sun, Zeng, Li 2022 (pbLN).
    """

    def __init__(
        self,
        normalized_shape: Sequence[int],
        *,
        v_threshold: float = 1.0,
        v_reset: float = 0.0,
        eps: float = 1e-5,
    ) -> None:
        super().__init__(normalized_shape)
        if not eps >= 0:
            raise Refused("eps", eps, "must be >= 0")
        self.eps = eps
        self.weight = nn.Parameter(torch.full(self.normalized_shape, float(v_threshold - v_reset)))
        self.bias = nn.Parameter(torch.full(self.normalized_shape, float(v_reset)))

    def forward(self, x_seq: Tensor, repeats: int = 1) -> Tensor:
        """Currents (T, B, *normalized_shape), or (N, *normalized_shape), to the same shape."""
        return F.layer_norm(x_seq, self.normalized_shape, self.weight, self.bias, self.eps)


class BatchNorm(Norm):
    """Batch normalization per channel, z = (x - mean_c) / sqrt(var_c + eps).

    In training mode the statistics are those of the batch: at every simulation step those of that
    step's (B, H, W), or with over_time=True those of all steps together, (T, B, H, W). The running
    statistics move by `momentum` (mean, unbiased variance) once per simulation step, or once per
    call with over_time=True. In evaluation mode the running statistics are used at every step and
    stay as they are: a sample's answer then does not depend on its batch.

    Args:
        normalized_shape: shape of one sample's current; the first entry counts the channels.
        v_threshold: threshold of the neuron behind.
        v_reset: resting value of the neuron behind.
        eps: added to the variance, >= 0.
        momentum: weight of the newest statistics, in (0, 1].
        over_time: whether the statistics are taken over all steps together.

    Raises:
        Refused: eps is negative, or momentum is outside (0, 1].
        ValueError: on a call in training mode, a channel holds a single value.

    Source: Ioffe, Szegedy 2015; per step as Brain-Cog's `PDBatchNorm2d` is run.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(
        self,
        normalized_shape: Sequence[int],
        *,
        v_threshold: float = 1.0,
        v_reset: float = 0.0,
        eps: float = 1e-5,
        momentum: float = 0.1,
        over_time: bool = False,
    ) -> None:
        super().__init__(normalized_shape)
        if not eps >= 0:
            raise Refused("eps", eps, "must be >= 0")
        if not 0 < momentum <= 1:
            raise Refused("momentum", momentum, "must lie in (0, 1]")
        self.eps = eps
        self.momentum = momentum
        self.over_time = over_time
        channels = self.normalized_shape[0]
        self.weight = nn.Parameter(torch.full((channels,), float(v_threshold - v_reset)))
        self.bias = nn.Parameter(torch.full((channels,), float(v_reset)))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x_seq: Tensor, repeats: int = 1) -> Tensor:
        """Currents (T, B, *normalized_shape) to the same shape."""
        # With channels last torch's own kernel rounds ten times worse.
        x_seq = x_seq.contiguous()
        folded = x_seq.flatten(0, 1)
        if not self.training:
            statistics = self.running_mean, self.running_var
            y = F.batch_norm(folded, *statistics, self.weight, self.bias, eps=self.eps)
            return y.reshape(x_seq.shape)
        if self.over_time:
            return self._with_batch_statistics(folded, copies=repeats).reshape(x_seq.shape)
        return torch.stack([self._with_batch_statistics(x, updates=repeats) for x in x_seq])

    def _with_batch_statistics(self, x: Tensor, updates: int = 1, copies: int = 1) -> Tensor:
        """Normalize x (N, *shape), seen `copies` times over; move the running statistics."""
        mean = torch.zeros_like(self.running_mean)
        var = torch.zeros_like(self.running_var)
        y = F.batch_norm(x, mean, var, self.weight, self.bias, True, momentum=1.0, eps=self.eps)
        # torch gives the unbiased variance of one copy; the closed form corrects it for `copies`,
        # and moves the running statistics as `updates` equal updates would.
        count = x.numel() // x.shape[1]
        unbiased = var * ((count - 1) * copies / (copies * count - 1))
        moved = 1 - (1 - self.momentum) ** updates
        self.running_mean.lerp_(mean, moved)
        self.running_var.lerp_(unbiased, moved)
        return y
