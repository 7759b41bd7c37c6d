"""Networks so small that a test can say what they answer."""

import torch
from torch import nn

FEATURES, ACTIONS = 6, 3


class TinyNetwork(nn.Module):
    """Linear, batch norm, linear; adds noise of size `noise` from the generator it is given."""

    def __init__(self, seed=0, noise=0.0):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.first = nn.Linear(FEATURES, 8)
            self.norm = nn.BatchNorm1d(8)
            self.last = nn.Linear(8, ACTIONS, bias=False)
        self.noise = noise
        self.calls = []

    def forward(self, observations, *, time_window=None, generator=None):
        self.calls.append((self.training, time_window))
        x = observations.float()
        if self.noise:
            x = x + self.noise * torch.rand(x.shape, generator=generator)
        return self.last(torch.relu(self.norm(self.first(x))))


class Table(nn.Module):
    """The observation (N, A) is itself the table of values, up to a learnable factor of 1."""

    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.ones(()))

    def forward(self, observations, *, time_window=None, generator=None):
        return self.factor * observations
