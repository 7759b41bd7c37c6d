"""Updates and decisions of the whole agent, and the floor below them."""

from collections.abc import Callable
from functools import partial

import numpy as np

from sdqn_lab.benchmarks import arms, counts, machine
from sdqn_lab.benchmarks.arms import RIVALS, Kind
from sdqn_lab.benchmarks.counts import Work
from sdqn_lab.benchmarks.rows import Rival, Row, Setting, contest
from sdqn_lab.benchmarks.timing import Form, Spread


def update_rows(name: str, setting: Setting, game: str, time_window: int, batch: int) -> list[Row]:
    """Sample, forwards, backward and optimizer against every rival and the floor."""
    build = partial(update_form, setting, game, time_window, batch)
    cfg = arms.composed(game, "fused", str(setting.device), setting.threads)
    made = arms.network("fused", game, time_window, setting.device)
    work = counts.update(made, arms.SHAPES[game], batch, double=cfg.algo.double)
    return _with_floor(name, setting, build, work)


def rounded_rows(name: str, setting: Setting, game: str, time_window: int, batch: int) -> list[Row]:
    """The update with bf16 maps against that with float32 ones, and the step-by-step form."""
    build = partial(update_form, setting, game, time_window, batch)
    rivals: dict[str, Rival] = {
        "float32": partial(build, "fused"),
        "step-by-step": partial(build, "step-by-step"),
    }
    return contest(name, build("bf16"), rivals, setting)


def update_form(setting: Setting, game: str, time_window: int, batch: int, kind: Kind) -> Form:
    """One update of a fresh agent at each call."""
    cfg = arms.composed(game, kind, str(setting.device), setting.threads)
    agent = arms.agent(cfg, kind, game, time_window)
    rng = np.random.default_rng(0)
    replay = arms.filled_replay(cfg, game, rng)
    algo = cfg.algo
    return lambda: agent.update(replay.sample(batch, algo.n_step, algo.gamma, rng))


def decision_rows(
    name: str, setting: Setting, game: str, time_window: int, batch: int
) -> list[Row]:
    """Observations in host memory to greedy actions in host memory."""
    build = partial(_decision, setting, game, time_window, batch)
    made = arms.network("fused", game, time_window, setting.device)
    work = counts.decision(made, arms.SHAPES[game], batch)
    return _with_floor(name, setting, build, work)


def _decision(setting: Setting, game: str, time_window: int, batch: int, kind: Kind) -> Form:
    cfg = arms.composed(game, kind, str(setting.device), setting.threads)
    agent = arms.agent(cfg, kind, game, time_window)
    rng = np.random.default_rng(0)
    observations = rng.integers(256, size=(batch, *arms.SHAPES[game]), dtype=np.uint8)
    policy = agent.policy(agent.network, arms.ACTIONS)
    return lambda: policy.act(observations, rng)


def _with_floor(
    name: str, setting: Setting, build: Callable[[Kind], Form], work: list[Work]
) -> list[Row]:
    """Every rival and the machine's probes in one contest; the probes' times become the floor."""
    measured = machine.probes(setting.device)
    rivals: dict[str, Rival] = {kind: partial(build, kind) for kind in RIVALS}
    rivals |= {probe: partial(_itself, form) for probe, form in measured.items()}
    more = {"macs": sum(one.macs for one in work), "bytes": sum(one.bytes for one in work)}
    rows = contest(name, build("fused"), rivals, setting, more=more)
    times = {row.against: row.theirs for row in rows if row.theirs and row.against in measured}
    rates = machine.rates(times)
    floor = counts.floor_ms(work, rates)
    known = {"machine_macs_per_second": rates.macs, "machine_bytes_per_second": rates.bytes}
    last = Row(name, rows[0].ours, "floor", Spread(floor, floor, floor), more=more | known)
    return [*(row for row in rows if row.against not in measured), last]


def _itself(form: Form) -> Form:
    return form
