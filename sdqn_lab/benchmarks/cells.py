"""Several cells on one GPU at once, each a process as in a sweep.

``python -m sdqn_lab.benchmarks.cells GAME T EVERY CHUNK SECONDS DEVICE THREADS`` is one of them: it
warms up, says so, waits for a line, trains for so many seconds and prints its steps per second.
"""

import subprocess
import sys
import time

import torch

from sdqn_lab.benchmarks import arms
from sdqn_lab.benchmarks.rows import Row, Setting
from sdqn_lab.benchmarks.session import Plan, Session
from sdqn_lab.benchmarks.timing import Spread

COUNTS = (1, 2, 4, 8)


def cells_rows(
    name: str,
    setting: Setting,
    plan: Plan,
    cells: tuple[int, ...] = COUNTS,
    seconds: float | None = None,
) -> list[Row]:
    """Milliseconds a step of all cells together, against the first number of them.

    Args:
        name: of the rows, which add the number of cells.
        setting: device and threads; cells share the threads.
        plan: what each cell trains.
        cells: numbers of cells.
        seconds: how long they train; None: as careful as the setting.
    """
    seconds = seconds or (5.0 if setting.quick else 30.0)
    totals = {count: _together(setting, plan, count, seconds) for count in cells}
    times = {count: Spread(*[1e3 / total] * 3) for count, total in totals.items()}
    return [
        Row(
            f"{name}/cells={count}",
            times[count],
            f"cells={cells[0]}",
            times[cells[0]],
            more={"ours_steps_per_second": total},
        )
        for count, total in totals.items()
    ]


def _together(setting: Setting, plan: Plan, count: int, seconds: float) -> float:
    """Steps a second of so many cells, summed; they begin when the last one is warm."""
    threads = max(1, setting.threads // count)
    words = [plan.game, plan.time_window, plan.learn_every_steps, plan.chunk_steps, seconds]
    command = [sys.executable, "-m", __name__, *map(str, [*words, setting.device, threads])]
    pipe = subprocess.PIPE
    cells = [
        subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        for _ in range(count)
    ]
    try:
        for cell in cells:
            _answer(cell)
        for cell in cells:
            assert cell.stdin is not None
            print("go", file=cell.stdin, flush=True)
        return sum(float(_answer(cell)) for cell in cells)
    finally:
        for cell in cells:
            cell.kill()
            cell.communicate()


def _answer(cell: "subprocess.Popen[str]") -> str:
    assert cell.stdout is not None
    line = cell.stdout.readline()
    if line:
        return line
    assert cell.stderr is not None
    raise RuntimeError(f"a cell failed: {cell.stderr.read().strip()}")


def main(words: list[str]) -> None:
    """Be one cell."""
    game, time_window, every, chunk, seconds, device, threads = words
    torch.set_num_threads(int(threads))
    plan = Plan("fused", game, int(time_window), int(every), int(chunk))
    session = Session(plan, arms.composed(game, "fused", device, int(threads)))
    session()
    print("warm", flush=True)
    sys.stdin.readline()
    first, begin = session.trainer.counters.steps, time.perf_counter()
    while time.perf_counter() - begin < float(seconds):
        session()
    taken = session.trainer.counters.steps - first
    print(taken / (time.perf_counter() - begin), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
