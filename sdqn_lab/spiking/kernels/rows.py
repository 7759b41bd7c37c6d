"""How samples lie in memory: as rows of numbers, images with their channels first or last."""

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Array = npt.NDArray[np.float32]


def is_channels_last(images: Tensor) -> bool:
    """Whether (N, C, H, W) lies in memory as (N, H, W, C), and not in both orders at once."""
    return images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous()


class Rows:
    """Samples as rows of F numbers, in the order in which they lie in memory."""

    def __init__(self, x_seq: Tensor) -> None:
        self.shape = x_seq.shape[2:]
        self.units = math.prod(self.shape)
        self.channels_last = x_seq.dim() == 5 and is_channels_last(x_seq.flatten(0, 1))

    def array(self, x_seq: Tensor) -> Array:
        """(T, B, F), without a copy where the tensor lies in this order."""
        ordered = x_seq.permute(0, 1, 3, 4, 2) if self.channels_last else x_seq
        return ordered.detach().contiguous().view(*x_seq.shape[:2], self.units).numpy()

    def parameter(self, parameter: Tensor | None) -> Array:
        """(F,), in the order of a row; empty for None."""
        if parameter is None:
            return np.empty(0, np.float32)
        ordered = parameter.permute(1, 2, 0) if self.channels_last else parameter
        return ordered.detach().contiguous().flatten().numpy()

    def gradients(self, weight: Tensor | None, of_affine: Array) -> tuple[Tensor | None, ...]:
        """Those of weight and bias (2, F) as they are shaped; two Nones without a weight."""
        if weight is None:
            return None, None
        both = torch.from_numpy(of_affine)[:, None]
        return tuple(self.tensor(one[None])[0, 0].contiguous() for one in both)

    def tensor(self, rows: Tensor) -> Tensor:
        """(T, B, F) as (T, B, ...), without a copy."""
        if not self.channels_last:
            return rows.view(*rows.shape[:2], *self.shape)
        channels, height, width = self.shape
        images = rows.view(*rows.shape[:2], height, width, channels)
        return images.permute(0, 1, 4, 2, 3)
