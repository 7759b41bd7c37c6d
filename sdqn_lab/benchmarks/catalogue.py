"""The list of all benchmarks; nothing is built before it is run."""

from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from typing import NamedTuple

from sdqn_lab.benchmarks.arms import RIVALS
from sdqn_lab.benchmarks.cells import cells_rows
from sdqn_lab.benchmarks.layer import SIZES, layer_rows
from sdqn_lab.benchmarks.learning import decision_rows, rounded_rows, update_rows
from sdqn_lab.benchmarks.map import FIRING, map_rows
from sdqn_lab.benchmarks.map import SIZES as MAPS
from sdqn_lab.benchmarks.memory import memory_rows
from sdqn_lab.benchmarks.rows import Row, Setting
from sdqn_lab.benchmarks.session import Plan
from sdqn_lab.benchmarks.storage import add_rows, sample_rows, weight_rows
from sdqn_lab.benchmarks.training import (
    acting_rows,
    environment_rows,
    trainer_rows,
    training_rows,
)
from sdqn_lab.spiking.surrogate import (
    Atan,
    FastSigmoid,
    Gate,
    QuadraticGate,
    Sigmoid,
    Surrogate,
    Triangle,
)

ATARI, MINATAR = "pong", "minatar_breakout"
BATCH = 32
Measure = Callable[..., list[Row]]
Entry = tuple[str, Measure, tuple[object, ...]]
"""The name without the device, the function, and its words after name and setting."""
SURROGATES: tuple[type[Surrogate], ...] = (
    *(Atan, Sigmoid, QuadraticGate, Gate, FastSigmoid, Triangle),
)
CHUNK_STEPS = {ATARI: 20, MINATAR: 200}
"""Agent steps that one form trains before it is another's turn."""
FAMILIES = (("atari", ATARI, 16), ("minatar", MINATAR, 8))
"""Each with its game and T."""


class Benchmark(NamedTuple):
    """A name, the device it runs on, and what measures it."""

    name: str
    setting: Setting
    measure: Callable[[], list[Row]]


def benchmarks(setting: Setting) -> list[Benchmark]:
    """All benchmarks of one device, the quick ones leaving out some of a kind."""
    kinds = (_learning, _layers, _maps, _training, _storage)
    return [_benchmark(setting, *entry) for kind in kinds for entry in kind(setting)]


def selected(all_: list[Benchmark], pattern: str | None) -> list[Benchmark]:
    """Those whose name matches a pattern with * and ?, or holds a word without them."""
    if pattern is None:
        return all_
    whole = pattern if any(sign in pattern for sign in "*?") else f"*{pattern}*"
    return [one for one in all_ if fnmatchcase(one.name, whole)]


def _benchmark(
    setting: Setting, stem: str, measure: Measure, words: tuple[object, ...]
) -> Benchmark:
    name = f"{stem}/{setting.device.type}"
    return Benchmark(name, setting, lambda: measure(name, setting, *words))


def _learning(setting: Setting) -> Iterator[Entry]:
    for steps in (1, 4, 8, 16):
        yield f"update/atari/T={steps}/batch={BATCH}", update_rows, (ATARI, steps, BATCH)
    yield f"bf16/atari/T=16/batch={BATCH}", rounded_rows, (ATARI, 16, BATCH)
    yield f"update/minatar/T=8/batch={BATCH}", update_rows, (MINATAR, 8, BATCH)
    for steps in (16,) if setting.quick else (1, 4, 8, 16):
        for batch in (1, 10, 128):
            yield f"decision/atari/T={steps}/batch={batch}", decision_rows, (ATARI, steps, batch)
    yield f"memory/atari/T=16/batch={BATCH}", memory_rows, (ATARI, 16, BATCH)


def _layers(setting: Setting) -> Iterator[Entry]:
    for surrogate in SURROGATES[:1] if setting.quick else SURROGATES:
        for name, size in SIZES.items():
            stem = f"lif/{name}/T={size.time_window}/{surrogate.__name__.lower()}"
            yield stem, layer_rows, (size, surrogate())


def _maps(setting: Setting) -> Iterator[Entry]:
    if setting.device.type != "cpu":  # elsewhere all maps are dense
        return
    for firing in FIRING[1:2] if setting.quick else FIRING:
        for name, size in MAPS.items():
            stem = f"map/{name}/T={size.time_window}/firing={firing}"
            yield stem, map_rows, (size, firing)


def _training(setting: Setting) -> Iterator[Entry]:
    for family, game, steps in FAMILIES:
        chunk = CHUNK_STEPS[game]
        yield f"environment/{family}", environment_rows, (game,)
        yield f"acting/{family}/T={steps}", acting_rows, (game, steps)
        yield f"trainer/{family}", trainer_rows, (game, 1_000)
        for every in (10, 4):
            plan = Plan("fused", game, steps, every, chunk)
            stem = f"training/{family}/T={steps}/every={every}"
            rivals = ("step-by-step", "dqn") if setting.quick else RIVALS
            yield stem, training_rows, (plan, rivals)
    if setting.device.type == "cuda":
        for family, game, steps in FAMILIES:
            plan = Plan("fused", game, steps, 10, 200)
            yield f"cells/{family}/T={steps}/every=10", cells_rows, (plan,)


def _storage(setting: Setting) -> Iterator[Entry]:
    for family, game, _ in FAMILIES:
        yield f"replay/{family}/add", add_rows, (game,)
        yield f"replay/{family}/sample/batch={BATCH}", sample_rows, (game, BATCH)
        yield f"replay/{family}/bytes", weight_rows, (game,)
