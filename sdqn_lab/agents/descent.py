"""One step down a gradient, as all agents take it whose updates are torch's."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.cuda import is_current_stream_capturing
from torch.nn.utils import clip_grads_with_norm_, get_total_norm


def descend(
    loss: Tensor,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    max_grad_norm: float | None,
) -> Tensor:
    """Make one gradient step on a loss; the gradient's L2 norm before clipping, 0-d.

    Args:
        loss: 0-d.
        network: all of whose parameters count for the norm.
        optimizer: of these parameters.
        max_grad_norm: largest L2 norm of the gradient, > 0; None: no limit.
    """
    # None and not zeros: the optimizer leaves a parameter alone that the loss does not reach.
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    parameters = [p for p in network.parameters() if p.grad is not None]
    # Not asked here whether it is finite, which would wait for a GPU: the record refuses NaN.
    grad_norm = get_total_norm(cast(list[Tensor], [p.grad for p in parameters]))
    # The norm that is reported, before clipping, is also the one that clipping needs.
    if max_grad_norm is not None:
        clip_grads_with_norm_(parameters, max_grad_norm, grad_norm)
    for group in optimizer.param_groups:
        # What torch asks of a step in a CUDA graph; outside one it would warn.
        group["capturable"] = loss.is_cuda and is_current_stream_capturing()
    optimizer.step()
    return grad_norm
