"""Updates, decisions and whole cells of an arm, the floor below them, and their memory."""

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from sdqn_lab.agents.dqn import DQN
from sdqn_lab.agents.pqn import PQN
from sdqn_lab.agents.replay import Batch, Replay
from sdqn_lab.benchmarks import counts, variants
from sdqn_lab.benchmarks.counts import Work
from sdqn_lab.benchmarks.rows import Benchmark, Competitor, Row, Setting, compare
from sdqn_lab.benchmarks.timing import Spread, Workload
from sdqn_lab.benchmarks.variants import ACTIONS, ATARI, MINATAR, SHAPES, Kind, Session, Variant

FILLED_ROWS = 256
STATUS = Path("/proc/self/status")
UPDATES = 2
"""Of which the peak is taken."""
MINATAR_ARMS = (
    Variant(MINATAR, 4),
    Variant(MINATAR, 16),
    Variant(MINATAR, 1, "dqn"),
    Variant(MINATAR, 4, "pl_pqn"),
    Variant(MINATAR, 1, "pqn"),
)


def benchmarks(setting: Setting) -> Iterator[Benchmark]:
    """All of this module."""
    atari = Variant(ATARI, 16)
    arms = (*(Variant(ATARI, steps) for steps in (1, 4, 8, 16)), *MINATAR_ARMS)
    for arm in arms:
        more: tuple[Kind, ...] = ("bf16",) if arm == atari else ()
        stem = f"update/{arm.label}"
        yield Benchmark(stem, setting, with_floor, update, arm, of_update, more)
    for arm, batches in ((atari, (1, 10, 128)), (MINATAR_ARMS[0], (8, 128))):
        for batch in batches:
            build, work = partial(decision, batch=batch), partial(of_decision, batch=batch)
            stem = f"decision/{arm.label}/batch={batch}"
            yield Benchmark(stem, setting, with_floor, build, arm, work)
    for arm in (atari, *MINATAR_ARMS):
        yield Benchmark(f"training/{arm.label}", setting, cell_rows, arm)
    yield Benchmark(f"memory/{atari.label}", setting, peak_rows, atari)
    for family, game in (("atari", ATARI), ("minatar", MINATAR)):
        draw = partial(sample, setting, Variant(game, 1))
        yield Benchmark(f"replay/{family}/sample", setting, compare, draw)


def filled_replay(setting: Setting, game: str) -> Replay:
    """An agent's memory with random frames, actions and rewards, enough for any batch here."""
    agent, rng = variants.built_agent(setting, Variant(game, 1)), np.random.default_rng(0)
    assert isinstance(agent, DQN)
    envs, high = agent.num_envs, 256 if game == ATARI else 2
    shape = (envs, *variants.env_spec(game).frame_shape)
    # No episode ends.
    ends, valid = np.zeros(envs, np.bool_), np.ones(envs, np.bool_)
    for _ in range(FILLED_ROWS):
        frames = rng.integers(high, size=shape, dtype=np.uint8)
        actions, rewards = rng.integers(ACTIONS, size=envs), rng.standard_normal(envs)
        agent.memory.append(frames, actions, rewards, terminal=ends, valid=valid)
    return agent.memory


def sample(setting: Setting, variant: Variant) -> Callable[[], Batch]:
    """Drawing a batch from replay."""
    algo, replay = variants.composed(setting, variant).algo, filled_replay(setting, variant.game)
    rng = np.random.default_rng(0)
    return lambda: replay.sample(algo.batch_size, algo.n_step, algo.gamma, rng)


def update(setting: Setting, variant: Variant) -> Workload:
    """One update of a fresh agent at each call, of a DQN with its draw from replay."""
    agent = variants.built_agent(setting, variant)
    if isinstance(agent, DQN):
        draw = sample(setting, variant)
        return lambda: agent.update(draw())
    assert isinstance(agent, PQN)
    batch = variants.rhythm(variants.composed(setting, variant)).batch
    generator = torch.Generator().manual_seed(0)
    seen = torch.randint(2, (batch, *SHAPES[variant.game]), dtype=torch.uint8, generator=generator)
    actions = torch.randint(ACTIONS, (batch,), generator=generator)
    lesson = [part.to(setting.device) for part in (seen, actions, torch.ones(batch))]
    return lambda: agent.update(*lesson)


def decision(setting: Setting, variant: Variant, batch: int) -> Workload:
    """Observations in host memory to greedy actions in host memory."""
    agent, rng = variants.built_agent(setting, variant), np.random.default_rng(0)
    high, shape = 256 if variant.game == ATARI else 2, SHAPES[variant.game]
    observations = rng.integers(high, size=(batch, *shape), dtype=np.uint8)
    policy = agent.policy(agent.network, ACTIONS)
    return lambda: policy.act(observations, rng)


def of_decision(setting: Setting, variant: Variant, batch: int) -> list[Work]:
    """What a decision costs at least."""
    network = variants.built_agent(setting, variant).network
    return counts.decision(network, SHAPES[variant.game], batch)


def of_update(setting: Setting, variant: Variant) -> list[Work]:
    """What an update costs at least."""
    network = variants.built_agent(setting, variant).network
    rhythm = variants.rhythm(variants.composed(setting, variant))
    return counts.update(network, SHAPES[variant.game], rhythm.batch, rhythm.forwards)


def of_step(setting: Setting, variant: Variant) -> list[Work]:
    """What an agent step costs at least: its parts of a decision and of an update."""
    cfg = variants.composed(setting, variant)
    decision = of_decision(setting, variant, cfg.algo.num_envs)
    learning = counts.shares(of_update(setting, variant), variants.rhythm(cfg).updates_per_step)
    return counts.shares(decision, 1 / cfg.algo.num_envs) + learning


def with_floor(
    name: str,
    setting: Setting,
    build: Callable[[Setting, Variant], Workload],
    variant: Variant,
    counted: Callable[[Setting, Variant], list[Work]],
    more_kinds: tuple[Kind, ...] = (),
    per: int = 1,
) -> list[Row]:
    """Every competitor and what the machine can do in one comparison; the latter is the floor."""
    work = counted(setting, variant)
    # In turn with the rest, because a busy moment slows the machine's limits too.
    others: dict[str, Competitor] = {
        limit: partial(workload, setting.device) for limit, workload in counts.LIMITS.items()
    }
    for kind in (*variant.kinds(setting.device), *more_kinds):
        others[kind] = partial(build, setting, variant._replace(kind=kind))
    rows = compare(name, setting, partial(build, setting, variant), others, per)
    rates = counts.machine_rates({row.against: row.theirs for row in rows if row.theirs}, per)
    floor = counts.floor_ms(work, rates)
    more = {"macs": sum(one.macs for one in work), "bytes": sum(one.bytes for one in work)}
    known = {"machine_macs_per_second": rates.macs, "machine_bytes_per_second": rates.bytes}
    last = Row(name, rows[0].ours, "floor", Spread(floor, floor, floor), more=more | known)
    return [*(replace(row, more=more) for row in rows if row.against not in counts.LIMITS), last]


def cell_rows(name: str, setting: Setting, variant: Variant) -> list[Row]:
    """A whole trainer in milliseconds per agent step, with the rates that people ask for."""
    per = variants.rhythm(variants.composed(setting, variant)).chunk_steps

    def with_rates(row: Row) -> Row:
        ours, theirs = (spread and 1e3 / spread.median for spread in (row.ours, row.theirs))
        rates = {"ours_steps_per_second": ours, "against_steps_per_second": theirs}
        note = row.note or f"{ours:,.0f} and {theirs:,.0f} steps/s"
        return replace(row, note=note, more={**row.more, **rates})

    return list(map(with_rates, with_floor(name, setting, Session, variant, of_step, (), per)))


def peak_rows(name: str, setting: Setting, variant: Variant) -> list[Row]:
    """Ours against the step-by-step variant and the plain steps."""
    tries = 1 if setting.quick else 5

    def spread(kind: Kind) -> Spread:
        like = variant._replace(kind=kind)
        return Spread.of([peak_in_process(setting, like) / 2**20 for _ in range(tries)])

    ours, kinds = spread("auto"), variant.kinds(setting.device)[:2]
    return [Row(name, ours, kind, spread(kind), unit="MiB") for kind in kinds]


def peak_in_process(setting: Setting, variant: Variant) -> int:
    """`peak_bytes` of a fresh process."""
    # Pages that were touched once stay resident, so a second peak would not show here.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(peak_bytes, setting, variant).result()


def peak_bytes(setting: Setting, variant: Variant) -> int:
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
    update(setting, variant._replace(time_window=1))()  # loads the code of updates
    workload = update(setting, variant)
    on_gpu = setting.device.type == "cuda"
    idle = torch.cuda.memory_allocated() if on_gpu else resident("VmRSS")
    for _ in range(UPDATES):
        workload()
    return (torch.cuda.max_memory_allocated() if on_gpu else resident("VmHWM")) - idle
