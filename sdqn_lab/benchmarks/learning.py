"""Updates and decisions of the whole agent, the floor below them, and their memory."""

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from math import prod
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from sdqn_lab.agents.replay import Replay
from sdqn_lab.benchmarks import counts, variants
from sdqn_lab.benchmarks.rows import Benchmark, Competitor, Row, Setting, compare
from sdqn_lab.benchmarks.timing import Spread, Workload
from sdqn_lab.benchmarks.variants import ATARI, COMPETITORS, MINATAR, SHAPES, STEPS, Kind, Variant

BATCH = 32
STATUS = Path("/proc/self/status")
UPDATES = 2
"""Of which the peak is taken."""


def benchmarks(setting: Setting) -> Iterator[Benchmark]:
    """All of this module; the replay's times are those of a transition added, a batch drawn."""
    for steps in (1, 4, 8, 16):
        stem = f"update/atari/T={steps}/batch={BATCH}"
        yield Benchmark(stem, setting, with_floor, variants.update, Variant(ATARI, steps), BATCH)
    rounded, exact, stepwise = (
        partial(variants.update, setting, Variant(ATARI, 16, kind), BATCH)
        for kind in ("bf16", "fused", "step-by-step")
    )
    others = {"float32": exact, "step-by-step": stepwise}
    yield Benchmark(f"bf16/atari/T=16/batch={BATCH}", setting, compare, rounded, others)
    stem = f"update/minatar/T=8/batch={BATCH}"
    yield Benchmark(stem, setting, with_floor, variants.update, Variant(MINATAR, 8), BATCH)
    for steps in (16,) if setting.quick else (1, 4, 8, 16):
        for batch in (1, 10, 128):
            stem, variant = f"decision/atari/T={steps}/batch={batch}", Variant(ATARI, steps)
            yield Benchmark(stem, setting, with_floor, variants.decision, variant, batch)
    stem = f"memory/atari/T=16/batch={BATCH}"
    yield Benchmark(stem, setting, peak_rows, Variant(ATARI, 16), BATCH)
    for family, game in (("atari", ATARI), ("minatar", MINATAR)):
        adding = partial(add, setting, Variant(game, 1))
        drawing = partial(sample, setting, Variant(game, 1), BATCH)
        yield Benchmark(f"replay/{family}/add", setting, compare, adding, {}, STEPS)
        yield Benchmark(f"replay/{family}/sample/batch={BATCH}", setting, compare, drawing)
        yield Benchmark(f"replay/{family}/bytes", setting, weight_rows, game)


def with_floor(
    name: str,
    setting: Setting,
    build: Callable[[Setting, Variant, int], Workload],
    variant: Variant,
    batch: int,
) -> list[Row]:
    """Every competitor and what the machine can do in one comparison; the latter is the floor."""
    network, shape = variants.built_agent(setting, variant).network, SHAPES[variant.game]
    work = counts.decision(network, shape, batch)
    if build is variants.update:
        double = variants.composed(setting, variant).algo.double
        work = counts.update(network, shape, batch, double=double)
    # In turn with the rest, because a busy moment slows the machine's limits too.
    limits: dict[str, Competitor] = {
        limit: partial(workload, setting.device) for limit, workload in counts.LIMITS.items()
    }
    others = variants.others(build, COMPETITORS, setting, variant, batch)
    rows = compare(name, setting, partial(build, setting, variant, batch), others | limits)
    rates = counts.machine_rates({row.against: row.theirs for row in rows if row.theirs})
    floor = counts.floor_ms(work, rates)
    more = {"macs": sum(one.macs for one in work), "bytes": sum(one.bytes for one in work)}
    known = {"machine_macs_per_second": rates.macs, "machine_bytes_per_second": rates.bytes}
    last = Row(name, rows[0].ours, "floor", Spread(floor, floor, floor), more=more | known)
    return [*(replace(row, more=more) for row in rows if row.against not in limits), last]


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
    # Pages that were touched once stay resident, so a second peak would not show here.
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

    # A spawned process does not inherit the number that the command was given.
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
