"""Peak memory of an update above the idle process, each form in a process of its own.

``python -m sdqn_lab.benchmarks.memory KIND GAME T BATCH DEVICE THREADS`` prints the bytes.
"""

import subprocess
import sys
from pathlib import Path
from typing import cast, get_args

import torch

from sdqn_lab.benchmarks.arms import Kind
from sdqn_lab.benchmarks.learning import update_form
from sdqn_lab.benchmarks.rows import Row, Setting
from sdqn_lab.benchmarks.timing import QUICK, Spread

STATUS = Path("/proc/self/status")
UPDATES = 2


def memory_rows(name: str, setting: Setting, game: str, time_window: int, batch: int) -> list[Row]:
    """Ours against the step-by-step form and the plain steps."""
    tries = 1 if setting.quick else 5

    def spread(kind: Kind) -> Spread:
        peaks = [peak_in_process(setting, kind, game, time_window, batch) for _ in range(tries)]
        return Spread.of([peak / 2**20 for peak in peaks])

    ours = spread("fused")
    rivals: tuple[Kind, ...] = ("step-by-step", "reference")
    return [Row(name, ours, kind, spread(kind), unit="MiB") for kind in rivals]


def peak_in_process(setting: Setting, kind: Kind, game: str, time_window: int, batch: int) -> int:
    """`peak_bytes` of a fresh process."""
    words = [kind, game, str(time_window), str(batch), str(setting.device), str(setting.threads)]
    command = [sys.executable, "-m", __name__, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the process that measures memory failed: {done.stderr.strip()}")
    return int(done.stdout)


def peak_bytes(setting: Setting, kind: Kind, game: str, time_window: int, batch: int) -> int:
    """What updates add at their peak to a process that has built everything.

    On a CPU this is the process's resident memory as the kernel counts it, libraries' scratch
    included; on a GPU it is what torch allocates.
    """
    update_form(setting, game, time_window, 1, kind)()  # loads the code that updates need
    update = update_form(setting, game, time_window, batch, kind)
    on_gpu = setting.device.type == "cuda"
    idle = torch.cuda.memory_allocated() if on_gpu else _resident("VmRSS")
    for _ in range(UPDATES):
        update()
    return (torch.cuda.max_memory_allocated() if on_gpu else _resident("VmHWM")) - idle


def _resident(key: str) -> int:
    """Linux's own count; getrusage's maximum would include the parent's size at the start."""
    lines = STATUS.read_text().splitlines()
    value = next(line for line in lines if line.startswith(f"{key}:"))
    return 1024 * int(value.split()[1])


def main(words: list[str]) -> None:
    """Print the peak of one form."""
    kind, game, time_window, batch, device, threads = words
    assert kind in get_args(Kind)
    torch.set_num_threads(int(threads))
    setting = Setting(torch.device(device), int(threads), QUICK, quick=True)
    print(peak_bytes(setting, cast(Kind, kind), game, int(time_window), int(batch)))


if __name__ == "__main__":
    main(sys.argv[1:])
