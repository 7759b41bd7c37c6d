"""A norm: one class; `conf/norm/rms.yaml` is its option."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sdqn_lab.checks.ranges import Positive, check_arguments
from sdqn_lab.spiking.norm import Norm


class RMSNorm(Norm):
    """Root mean square normalization, y = weight x / sqrt(mean x^2 + eps) + bias, at each step.

    PopNorm without taking the mean away. The mean of the squares is over the whole of
    normalized_shape; weight and bias hold one value per element.

    Args:
        normalized_shape: shape of one sample's current, for instance (C, H, W).
        v_threshold: threshold of the neuron behind; weight begins at v_threshold - v_reset.
        v_reset: resting value of the neuron behind, at which bias begins.
        eps: added to the mean of the squares, > 0.

    Raises:
        Refused: eps is not above 0.

    Source: Zhang and Sennrich 2019, with a bias.
    """

    def __init__(
        self,
        normalized_shape: Sequence[int],
        *,
        v_threshold: float = 1.0,
        v_reset: float = 0.0,
        eps: Positive = 1e-5,
    ) -> None:
        check_arguments(RMSNorm.__init__, locals())
        super().__init__(normalized_shape)
        self.eps = eps
        self.weight = nn.Parameter(torch.full(self.normalized_shape, v_threshold - v_reset))
        self.bias = nn.Parameter(torch.full(self.normalized_shape, v_reset))

    def forward(self, x_seq: Tensor, repeats: int = 1) -> Tensor:
        """Currents (T, B, *normalized_shape) to the same shape."""
        axes = tuple(range(2, x_seq.dim()))
        scale = (x_seq.square().mean(axes, keepdim=True) + self.eps).rsqrt()
        return self.weight * (x_seq * scale) + self.bias
