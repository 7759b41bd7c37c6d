"""Fully connected layers for vector observations."""

from collections.abc import Sequence

from sdqn_lab.checks.refused import Refused
from sdqn_lab.networks.blocks import MakeNeuron, MakeNorm, Torso, fully_connected


class MLP(Torso):
    """Fully connected blocks hidden1, hidden2, ... of equal width.

    All but the last are normalized, the last only if asked: as in the networks for images.

    Args:
        observation_shape: (F,).
        make_neuron: makes one layer's neuron.
        make_norm: makes the norm of a layer from the shape of its current.
        hidden: units of each layer, >= 1.
        layers: number of layers, >= 1.
        normalize_hidden: whether the last layer is normalized too.

    Raises:
        Refused: the observation is no vector, or a size is below 1.
    """

    def __init__(
        self,
        observation_shape: Sequence[int],
        make_neuron: MakeNeuron,
        make_norm: MakeNorm,
        *,
        hidden: int = 128,
        layers: int = 2,
        normalize_hidden: bool = False,
    ) -> None:
        super().__init__()
        if layers < 1:
            raise Refused("layers", layers, "must be >= 1")
        if len(observation_shape) != 1:
            rule = f"needs a vector (F,), got an observation of shape {tuple(observation_shape)}"
            raise Refused("network", "mlp", rule, "network=nature or network=minatar")
        features = observation_shape[0]
        for number in range(1, layers + 1):
            normalize = normalize_hidden or number < layers
            block = fully_connected(features, hidden, make_neuron, make_norm, normalize)
            self.add_module(f"hidden{number}", block)
            features = hidden
        self.num_features = hidden
