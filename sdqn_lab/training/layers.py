"""Layers by the names that metrics use."""

import torch
from torch import nn
from torch.nn.utils import get_total_norm


def layer_of(parameter: str) -> str:
    """``torso.conv1.linear.weight`` -> ``conv1``; the readout's map is ``head``."""
    parts = parameter.split(".")
    return "head" if parts[0] == "readout" else parts[1]


def gradient_norms(network: nn.Module) -> dict[str, torch.Tensor]:
    """L2 norm of the gradient of each layer (linear map, norm and neuron together), 0-d tensors."""
    grads: dict[str, list[torch.Tensor]] = {}
    for name, parameter in network.named_parameters():
        if parameter.grad is not None:
            grads.setdefault(layer_of(name), []).append(parameter.grad)
    return {layer: get_total_norm(of_layer) for layer, of_layer in grads.items()}
