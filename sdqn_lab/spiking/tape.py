"""Spikes that were drawn while acting, kept so that learning can ask how likely they were."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from sdqn_lab.spiking.neuron import Bernoulli


class SpikeTape:
    """The spikes of a network's call, kept as bits, and their log-likelihood in a later call::

        log P(s) = sum over neurons and steps of s log p + (1 - s) log (1 - p)

    In the later call neurons draw nothing: each answers with its spikes from the tape, as data, so
    that no surrogate's gradient goes through them. p is the probability that neuron and weights
    give now, after the same spikes before; its gradient is the score of Williams 1992.

    Args:
        neurons: which are recorded; a call of the network calls each of them, in an order that is
            always the same.

    Attributes:
        bits: (B, bytes) uint8, what the last recording kept: of each sample the spikes of all
            neurons, each (T, ...) in order; 8 a byte, the first in its lowest bit.
        log_prob: (B,) log P(s) of the last call that repeated spikes, with its gradient.
    """

    bits: Tensor
    log_prob: Tensor

    def __init__(self, neurons: Sequence[Bernoulli]) -> None:
        self.neurons = list(neurons)
        self._drawn: list[Tensor] = []
        self._left: Tensor | None = None

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Keep the spikes of the network's call inside."""
        self._drawn = []
        with self._lent():
            yield
        every = torch.cat(self._drawn, dim=1)
        padded = nn.functional.pad(every, (0, -every.shape[1] % 8)).view(len(every), -1, 8)
        self.bits = (padded << _places(every)).sum(2, dtype=torch.uint8)

    @contextmanager
    def repeating(self, bits: Tensor) -> Iterator[None]:
        """Repeat spikes in the network's call inside, which has as many samples.

        Args:
            bits: (B, bytes), rows of what recordings kept.
        """
        self._left = (bits.unsqueeze(2) >> _places(bits) & 1).flatten(1)
        self.log_prob = torch.zeros(len(bits), device=bits.device)
        try:
            with self._lent():
                yield
        finally:
            self._left = None

    def spikes(self, neuron: Bernoulli, x_seq: Tensor) -> Tensor:
        """What a neuron answers to currents (T, B, ...): new spikes, or those of the tape."""
        if self._left is None:
            drawn = neuron.reference(x_seq)
            self._drawn.append(drawn.detach().transpose(0, 1).flatten(1).to(torch.uint8))
            return drawn
        steps, samples, *shape = x_seq.shape
        count = steps * math.prod(shape)
        own, self._left = self._left[:, :count], self._left[:, count:]
        spikes = own.reshape(samples, steps, *shape).transpose(0, 1).to(x_seq.dtype)
        self.log_prob = self.log_prob + neuron.log_likelihood(x_seq, spikes)
        return spikes

    @contextmanager
    def _lent(self) -> Iterator[None]:
        for neuron in self.neurons:
            neuron.tape = self
        try:
            yield
        finally:
            for neuron in self.neurons:
                neuron.tape = None


def _places(like: Tensor) -> Tensor:
    """Of the bits in a byte."""
    return torch.arange(8, dtype=torch.uint8, device=like.device)
