"""One seed, many independent streams."""

from zlib import crc32

import numpy as np
import torch


def stream_seed(seed: int, name: str, index: int = 0) -> int:
    """Seed of a named random stream, in [0, 2**31).

    Streams of different names or indices are statistically independent, and none moves when another
    is used more or less.

    Args:
        seed: the run's seed, >= 0.
        name: what the stream is for, e.g. `"explore"`.
        index: running number, e.g. of the iteration.
    """
    # crc32 and not hash(), which differs from process to process.
    sequence = np.random.SeedSequence([seed, crc32(name.encode()), index])
    # Halved, because environments take seeds below 2**31 (`VectorEnv.reset`).
    return int(sequence.generate_state(1)[0] >> 1)


def stream(seed: int, name: str, index: int = 0) -> np.random.Generator:
    """A generator on the stream of that name."""
    return np.random.default_rng(stream_seed(seed, name, index))


def restore(generator: torch.Generator, state: torch.Tensor) -> None:
    """Take over a state, unless it is of another kind of device: these have other states."""
    if generator.get_state().shape == state.shape:
        generator.set_state(state.cpu())
