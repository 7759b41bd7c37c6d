"""Updates and decisions of the whole agent, and the floor below them."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

from sdqn_lab.benchmarks import counts, variants
from sdqn_lab.benchmarks.rows import Benchmark, Competitor, Row, Setting, compare
from sdqn_lab.benchmarks.timing import Spread, Workload
from sdqn_lab.benchmarks.variants import ATARI, COMPETITORS, MINATAR, SHAPES, Variant

BATCH = 32


def benchmarks(setting: Setting) -> Iterator[Benchmark]:
    """All of this module."""
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
