"""Do two commits make the same numbers? `python tests/same_numbers.py COMMIT [CELL ...]`

Runs smoke cells of every axis in this working tree and in a checkout of COMMIT, and compares their
metrics, but for the clock's keys, and the last network's weights, bit by bit. Two cells are killed
with SIGKILL and resumed. One thread, on a CPU; about ten minutes on two cores.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from safetensors.numpy import load_file

from sdqn_lab.runs.metrics import read_metrics, reproducible

HERE = Path(__file__).resolve().parents[1]
MINATAR = ("env=minatar_breakout", "time_window=4")
CELLS = {
    "pl_sdqn": (*MINATAR, "experiment=pl_sdqn"),
    "sdqn": (*MINATAR, "experiment=sdqn"),
    "dqn": (*MINATAR, "experiment=dqn"),
    "dqn_popnorm": ("env=minatar_asterix", "experiment=dqn_popnorm"),
    "if": (*MINATAR, "neuron=if", "surrogate=sigmoid"),
    "plif": (*MINATAR, "neuron=plif", "seed=3"),
    "batchnorm": (*MINATAR, "norm=batchnorm"),
    "max_membrane": (*MINATAR, "readout=max_membrane"),
    "mean_membrane": (*MINATAR, "readout=mean_membrane"),
    "last_membrane": (*MINATAR, "readout=last_membrane"),
    "poisson": ("env=minatar_freeway", "time_window=4", "encoder=poisson"),
    "double": (
        *(*MINATAR, "experiment=dqn", "algo=double_dqn", "algo.learn_every_steps=1"),
        "algo.target_update_every_updates=20",
    ),
    "soft_target": (*MINATAR, "algo.target_ema=0.05", "algo.max_grad_norm=1.0"),
    "reference": (*MINATAR, "backend=reference", "neuron.reset=soft"),
    "bf16": (*MINATAR, "precision=bf16"),
    "braincog": ("env=minatar_space_invaders", "time_window=4", "algo=braincog"),
    "time_window_eval": (*MINATAR, "time_window_eval=2", "network.normalize_hidden=true"),
    "iterations": ("env=minatar_seaquest", "time_window=4", "algo.iteration_steps=300"),
    "cartpole": ("env=cartpole", "time_window=4"),
    "mse_n_step": (
        *("env=cartpole", "experiment=dqn", "algo.loss=mse", "algo.n_step=4"),
        *("algo.replay_capacity_steps=300", "algo.replay_start_steps=100"),
    ),
    "acrobot": ("env=acrobot", "experiment=dqn"),
    "gymnasium": ("env=gymnasium", "env.id=MountainCar-v0", "time_window=2"),
    "pong": ("env=pong", "time_window=4"),
    "pong_dqn": ("env=pong", "experiment=dqn", "algo=dqn"),
    "machado": ("env=breakout", "protocol=machado", "time_window=2", "experiment=sdqn"),
    "killed": (*MINATAR, "experiment=pl_sdqn", "checkpoint_every_minutes=0.001"),
    "killed_poisson": (*MINATAR, "encoder=poisson", "checkpoint_every_minutes=0.001"),
}


def main(commit: str, names: list[str]) -> int:
    """Compare; 1 if any cell differs."""
    different = []
    with tempfile.TemporaryDirectory() as folder:
        tree, runs = Path(folder) / "tree", Path(folder) / "runs"
        subprocess.run(
            ["git", "worktree", "add", "-q", "--detach", tree, commit], cwd=HERE, check=True
        )
        try:
            for name in names or CELLS:
                before, after = (cell(name, root, runs / root.name / name) for root in (tree, HERE))
                print(f"{name}: {'equal' if before == after else 'DIFFERENT'}", flush=True)
                different += [name] if before != after else []
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", tree], cwd=HERE, check=True)
    return 1 if different else 0


def cell(name: str, tree: Path, path: Path) -> tuple[list[dict], dict[str, bytes]]:
    """Run a cell with the code of a tree: its records without clocks, and its weights."""
    command = [sys.executable, "-m", "sdqn_lab.run"]
    # Compiled updates round otherwise than earlier commits; PLIF has neither them nor kernels.
    general = [] if name in ("plif", "reference") else ["backend=fused"]
    arguments = [*CELLS[name], *general, "budget=smoke", "tracker=none", "threads=1", "device=cpu"]
    where = {"cwd": tree, "env": {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tree)}}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    run = subprocess.Popen([*command, *arguments, f"hydra.run.dir={path}"], **where, **quiet)
    if name.startswith("killed"):
        while run.poll() is None and len(read_metrics(path / "metrics.jsonl")) < 3:
            time.sleep(0.02)
        run.kill()
        run.wait()
        run = subprocess.Popen([*command, "--resume", path], **where, **quiet)
    if run.wait():
        raise SystemExit(f"{name}: ended with code {run.returncode} under {tree}")
    weights = load_file(path / "network_last.safetensors")
    records = list(map(reproducible, read_metrics(path / "metrics.jsonl")))
    return records, {key: value.tobytes() for key, value in weights.items()}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
