"""What is asked of `python -m sdqn_lab.export`, checked as far as it can be without the run."""

import argparse
from collections.abc import Iterator
from pathlib import Path

from sdqn_lab.checks.refused import Refused
from sdqn_lab.watching.request import MAX_EPISODES, file_mistakes

MAX_OBSERVATIONS = 10_000
"""Of a calibration; on Atari they take 280 MB."""
SUFFIXES = (".nir", ".h5", ".hdf5")
"""A suffix is asked for because a run directory is full of files that must not be replaced."""


class Request(argparse.Namespace):
    """What is asked for.

    Each attribute is an option of the command, whose help says what it means; None: not given.
    """

    run_dir: Path
    nir: Path
    network: str
    calibrate_norm: int | None
    episodes: int | None
    trust: bool


def mistakes(request: Request) -> Iterator[Refused]:
    """All that is wrong with a request."""
    whole = {"--calibrate-norm": MAX_OBSERVATIONS, "--episodes": MAX_EPISODES}
    for flag, high in whole.items():
        value = getattr(request, flag[2:].replace("-", "_"))
        if value is not None and not (isinstance(value, int) and 1 <= value <= high):
            rule = f"must be a whole number >= 1 and <= {high}"
            yield Refused(flag, value, rule, f"{flag}={min(high, 1000)}")
    if request.network not in ("last", "best"):
        yield Refused("--network", request.network, "must be last or best", "--network=last")
    if request.episodes is not None and request.calibrate_norm is None:
        rule = "are played where norms are fixed, to compare"
        instead = f"--episodes={request.episodes} --calibrate-norm=1000"
        yield Refused("--episodes", request.episodes, rule, instead)
    yield from file_mistakes("--nir", request.nir, SUFFIXES)
