"""What this machine can do: its memory bandwidth and its multiply-adds.

Both are forms like any other, so that they take turns with what they are compared with.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F

from sdqn_lab.benchmarks.counts import Rates
from sdqn_lab.benchmarks.timing import Form, Spread

COPY_FLOATS = 2**25
"""128 MiB: more than caches hold."""
IMAGES, KERNEL, STRIDE = (512, 32, 20, 20), (64, 32, 4, 4), 2
CONVOLUTION_MACS = 512 * (64 * 9 * 9) * (32 * 4 * 4)
"""The second convolution of the nature network at batch 32, T = 16.

A plain product of the same size comes out at a third of its speed on some CPUs: no floor.
"""
COPY, CONVOLUTION = "copy", "convolution"


def probes(device: torch.device) -> dict[str, Form]:
    """A copy of what no cache holds, and a convolution."""
    source = torch.ones(COPY_FLOATS, device=device)
    target = torch.empty_like(source)
    images, kernel = torch.ones(IMAGES, device=device), torch.ones(KERNEL, device=device)
    return {
        COPY: lambda: target.copy_(source),
        CONVOLUTION: lambda: F.conv2d(images, kernel, stride=STRIDE),
    }


def rates(times: Mapping[str, Spread]) -> Rates:
    """What the probes' times say; bytes read and bytes written both count."""
    moved = 2 * 4 * COPY_FLOATS
    return Rates(
        macs=1e3 * CONVOLUTION_MACS / times[CONVOLUTION].median,
        bytes=1e3 * moved / times[COPY].median,
    )
