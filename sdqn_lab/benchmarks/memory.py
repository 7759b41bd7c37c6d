"""Memory: what an update needs at its peak, and the replay's speed and size."""

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from math import prod
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from sdqn_lab.agents.replay import Replay
from sdqn_lab.benchmarks import variants
from sdqn_lab.benchmarks.rows import Benchmark, Row, Setting, compare
from sdqn_lab.benchmarks.timing import Spread, Workload
from sdqn_lab.benchmarks.variants import ATARI, MINATAR, STEPS, Kind, Variant

BATCH = 32
STATUS = Path("/proc/self/status")
UPDATES = 2


def benchmarks(setting: Setting) -> Iterator[Benchmark]:
    """All of this module; the replay's times are those of a transition added, a batch drawn."""
    stem = f"memory/atari/T=16/batch={BATCH}"
    yield Benchmark(stem, setting, peak_rows, Variant(ATARI, 16), BATCH)
    for family, game in (("atari", ATARI), ("minatar", MINATAR)):
        adding = partial(add, setting, Variant(game, 1))
        drawing = partial(sample, setting, Variant(game, 1), BATCH)
        yield Benchmark(f"replay/{family}/add", setting, compare, adding, {}, STEPS)
        yield Benchmark(f"replay/{family}/sample/batch={BATCH}", setting, compare, drawing)
        yield Benchmark(f"replay/{family}/bytes", setting, weight_rows, game)


def peak_rows(name: str, setting: Setting, variant: Variant, batch: int) -> list[Row]:
    """Ours against the step-by-step variant and the plain steps."""
    tries = 1 if setting.quick else 5

    def spread(kind: Kind) -> Spread:
        like = variant._replace(kind=kind)
        return Spread.of([peak_in_process(setting, like, batch) / 2**20 for _ in range(tries)])

    ours, kinds = spread("fused"), variants.COMPETITORS[:2]
    return [Row(name, ours, kind, spread(kind), unit="MiB") for kind in kinds]


def peak_in_process(setting: Setting, variant: Variant, batch: int) -> int:
    """`peak_bytes` of a fresh process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(peak_bytes, setting, variant, batch).result()


def peak_bytes(setting: Setting, variant: Variant, batch: int) -> int:
    """What updates add at their peak to a process that has built everything.

    On a CPU this is the process's resident memory as the kernel counts it, libraries' scratch
    included; on a GPU it is what torch allocates.
    """

    def resident(key: str) -> int:
        # Linux's own count; getrusage's maximum would include the parent's size at the start.
        lines = STATUS.read_text().splitlines()
        value = next(line for line in lines if line.startswith(f"{key}:"))
        return 1024 * int(value.split()[1])

    torch.set_num_threads(setting.threads)
    variants.update(setting, variant, 1)()  # loads the code that updates need
    update = variants.update(setting, variant, batch)
    on_gpu = setting.device.type == "cuda"
    idle = torch.cuda.memory_allocated() if on_gpu else resident("VmRSS")
    for _ in range(UPDATES):
        update()
    return (torch.cuda.max_memory_allocated() if on_gpu else resident("VmHWM")) - idle


def add(setting: Setting, variant: Variant) -> Workload:
    """Adding steps of all environments."""
    agent, rng = variants.built_agent(setting, variant), np.random.default_rng(0)
    replay = variants.filled_replay(agent, variant.game, rng)
    frames = np.zeros((replay.num_envs, *replay.frame_shape), np.uint8)

    def run() -> None:
        for _ in range(STEPS // replay.num_envs):
            variants.append_row(replay, frames, rng)

    return run


def sample(setting: Setting, variant: Variant, batch: int) -> Workload:
    """Drawing a batch."""
    algo, rng = variants.composed(setting, variant).algo, np.random.default_rng(0)
    agent = variants.built_agent(setting, variant)
    replay = variants.filled_replay(agent, variant.game, rng)
    return lambda: replay.sample(batch, algo.n_step, algo.gamma, rng)


def weight_rows(name: str, setting: Setting, game: str) -> list[Row]:
    """Bytes of a transition, against one that stores both its stacked observations."""
    frame = variants.env_spec(game).frame_shape
    few, many = (Replay.bytes_needed(n, 1, frame, torch.uint8) for n in (1, 1_001))
    ours = (many - few) / 1_000
    naive = 2 * prod(variants.SHAPES[game]) + ours - prod(frame)
    both = Spread(naive, naive, naive)
    return [Row(name, Spread(ours, ours, ours), "both stacks stored", both, unit="bytes")]
