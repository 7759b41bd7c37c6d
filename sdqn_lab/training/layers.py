"""Layers by the names that metrics use."""

import torch
from torch import nn


def layer_of(parameter: str) -> str:
    """``torso.conv1.linear.weight`` -> ``conv1``; the readout's map is ``head``."""
    parts = parameter.split(".")
    return "head" if parts[0] == "readout" else parts[1]


def gradient_norms(network: nn.Module) -> dict[str, torch.Tensor]:
    """L2 norm of the gradient of each layer (linear map, norm and neuron together), 0-d tensors."""
    squares: dict[str, torch.Tensor] = {}
    for name, parameter in network.named_parameters():
        if parameter.grad is None:
            continue
        layer = layer_of(name)
        square = parameter.grad.detach().square().sum()
        squares[layer] = squares[layer] + square if layer in squares else square
    return {layer: square.sqrt() for layer, square in squares.items()}
