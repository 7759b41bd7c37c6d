"""One linear map of spikes, forward and backward, with its zeros and without."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sdqn_lab.benchmarks.rows import Row, Setting, contest
from sdqn_lab.benchmarks.timing import Form
from sdqn_lab.spiking.kernels.sparse import sparse_linear


class Size(NamedTuple):
    """A layer's map, and the images (N, C, H, W) of all T steps of a batch, as they lie there."""

    make: Callable[[], nn.Module]
    time_window: int
    shape: tuple[int, int, int, int]
    layout: torch.memory_format = torch.channels_last


SIZES = {
    "conv2": Size(partial(nn.Conv2d, 32, 64, 4, stride=2), 16, (512, 32, 20, 20)),
    "conv3": Size(partial(nn.Conv2d, 64, 64, 3), 16, (512, 64, 9, 9)),
    "hidden": Size(partial(nn.Linear, 3136, 512), 16, (512, 64, 7, 7)),
    "minatar": Size(partial(nn.Linear, 1024, 128), 8, (256, 16, 8, 8), torch.contiguous_format),
}
"""Maps of the nature network, and the hidden layer's of MinAtar's, at batch 32."""
FIRING = (0.05, 0.1, 0.15)
"""Shares of the inputs that fire."""


def map_rows(name: str, setting: Setting, size: Size, firing: float) -> list[Row]:
    """Ours against torch's map of the same spikes."""
    torch.manual_seed(0)
    linear = size.make()

    def ours(x: Tensor) -> Tensor:
        y = sparse_linear(linear, x)
        if y is None:
            raise RuntimeError(f"{name}: these spikes are left to the dense map")
        return y

    def dense(x: Tensor) -> Tensor:
        y: Tensor = linear(x.flatten(1) if isinstance(linear, nn.Linear) else x)
        return y

    form = partial(_form, size, firing, linear)
    return contest(name, form(ours), {"dense": lambda: form(dense)}, setting)


def _form(size: Size, firing: float, linear: nn.Module, layer: Callable[[Tensor], Tensor]) -> Form:
    generator = torch.Generator().manual_seed(0)
    spikes = (torch.rand(size.shape, generator=generator) < firing).float()
    spikes = spikes.contiguous(memory_format=size.layout).requires_grad_()
    gradient = torch.randn(layer(spikes).shape, generator=generator)

    def run() -> None:
        spikes.grad = None
        linear.zero_grad()
        layer(spikes).backward(gradient)  # type: ignore[no-untyped-call]

    return run
