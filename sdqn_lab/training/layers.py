"""What learning does to each layer of a network."""

import torch
from torch.nn.utils import get_total_norm

from sdqn_lab.networks.network import SpikingNetwork


def gradient_norms(network: SpikingNetwork) -> dict[str, torch.Tensor]:
    """L2 norm of the gradient of each layer (linear map, norm and neuron together), 0-d tensors.

    Layers are named as `SpikingNetwork.layers` names them; those without a gradient are left out.
    """
    grads = {
        name: [p.grad for p in layer.parameters() if p.grad is not None]
        for name, layer in network.layers()
    }
    return {name: get_total_norm(of_layer) for name, of_layer in grads.items() if of_layer}
