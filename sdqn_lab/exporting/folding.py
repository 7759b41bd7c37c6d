"""Norms as what is left of them once their statistics are fixed: a gain and a shift."""

from collections.abc import Sequence
from copy import deepcopy
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sdqn_lab.spiking.norm import BatchNorm, NoNorm, Norm, PopNorm


class FixedNorm(Norm):
    """A PopNorm whose statistics are numbers and no longer those of the sample::

        y = weight (x - mean) / sqrt(var + eps) + bias

    Weight and bias hold one value per element, as the PopNorm's.

    Args:
        norm: whose weight, bias and eps it takes over.
        mean: 0-d, in place of each sample's.
        var: 0-d, likewise, >= 0.

    Attributes:
        gain: what multiplies x.
        shift: what is added.
    """

    gain: Tensor
    shift: Tensor

    def __init__(self, norm: PopNorm, mean: Tensor, var: Tensor) -> None:
        super().__init__(norm.normalized_shape)
        weight, bias = norm.weight.detach().double(), norm.bias.detach().double()
        gain = weight / (var.double() + norm.eps).sqrt()
        self.register_buffer("gain", gain.to(norm.weight.dtype))
        self.register_buffer("shift", (bias - gain * mean.double()).to(norm.weight.dtype))

    def forward(self, x_seq: Tensor, repeats: int = 1) -> Tensor:
        """Currents (T, B, *normalized_shape) to the same shape."""
        return x_seq * self.gain + self.shift


class Affine(NamedTuple):
    """y = gain x + shift, in float64.

    Attributes:
        gain: of shape (), (C, 1, ..., 1) or that of x.
        shift: likewise.
    """

    gain: Tensor
    shift: Tensor

    @property
    def differs_by_place(self) -> bool:
        """Whether two places of one channel may have two values."""
        return self.gain.dim() > 1 and self.gain[0].numel() > 1

    def over(self, shape: Sequence[int]) -> "Affine":
        """The same with an entry for each element of x."""
        return Affine(self.gain.expand(*shape), self.shift.expand(*shape))


IDENTITY = Affine(*torch.tensor([1.0, 0.0], dtype=torch.float64))


def affine(norm: nn.Module) -> Affine | None:
    """What a norm does at evaluation, where it is the same for every sample; else None."""
    if type(norm) is FixedNorm:
        return Affine(norm.gain.double(), norm.shift.double())
    if type(norm) is BatchNorm:
        gain = norm.weight.detach().double() / (norm.running_var.double() + norm.eps).sqrt()
        shift = norm.bias.detach().double() - gain * norm.running_mean.double()
        by_channel = (-1, *[1] * (len(norm.normalized_shape) - 1))
        return Affine(gain.view(by_channel), shift.view(by_channel))
    return IDENTITY if type(norm) is NoNorm else None


class LinearMap(NamedTuple):
    """W x + b, in float64.

    Attributes:
        weight: (out, in), or of a convolution (out, in, height, width).
        bias: (out,).
    """

    weight: Tensor
    bias: Tensor

    def then(self, after: Affine) -> "LinearMap":
        """The map W' x + b' = gain (W x + b) + shift, the gain being one per entry of out."""
        gain, shift = (each.flatten().expand(len(self.bias)) for each in after)
        by_row = gain.view(-1, *[1] * (self.weight.dim() - 1))
        return LinearMap(self.weight * by_row, self.bias * gain + shift)


def linear_map(linear: nn.Linear | nn.Conv2d, scale: float = 1.0) -> LinearMap:
    """The map of x / scale, as the module holds it; a bias that it lacks is 0."""
    weight = linear.weight.detach().double() / scale
    bias = linear.bias
    return LinearMap(weight, weight.new_zeros(len(weight)) if bias is None else bias.double())


def unrolled(convolution: nn.Conv2d, shape: Sequence[int], scale: float = 1.0) -> LinearMap:
    """A convolution of x / scale as one dense matrix between flat images.

    Its columns are the convolution's answers to images with a single 1.

    Args:
        convolution: of images (C, H, W).
        shape: (C, H, W).
        scale: what x is divided by.
    """
    exact = deepcopy(convolution).double().requires_grad_(False)
    zero = torch.zeros(1, *shape, dtype=torch.float64)
    units = torch.eye(prod(shape), dtype=torch.float64).view(-1, *shape)
    offset = exact(zero)
    columns = (exact(units) - offset).flatten(1) / scale
    return LinearMap(columns.t(), offset.flatten())
