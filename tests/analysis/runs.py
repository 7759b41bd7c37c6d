"""Run directories made by hand: a real config, and metrics whose every number is known."""

import json
from functools import cache
from pathlib import Path

from omegaconf import OmegaConf

from sdqn_lab.config import compose

STEPS = (1_000, 2_000, 3_000, 4_000, 5_000)
LAYERS = ("conv1", "hidden")


@cache
def config(*overrides):
    """As a run writes it; a later override replaces an earlier one."""
    settings = ("env=minatar_breakout", "budget.steps=5000", "algo.replay_start_steps=500")
    chosen = dict(one.split("=", 1) for one in (*settings, "tracker=none", *overrides))
    return OmegaConf.to_yaml(compose([f"{key}={value}" for key, value in chosen.items()]))


def make_run(
    path: Path,
    *overrides: str,
    scores=(1.0, 2.0, 3.0, 4.0, 5.0),
    seed: int = 0,
    state: str = "finished",
    steps=STEPS,
    error: str | None = None,
    rates=(0.25, 0.125),
) -> Path:
    """A run with these evaluations; `overrides` as on the command line."""
    path.mkdir(parents=True)
    # Composing takes a second, so one config serves all seeds.
    text = config(*overrides).replace("\nseed: 0\n", f"\nseed: {seed}\n")
    (path / "config.yaml").write_text(text)
    attempt = {"started": "2026-01-01T00:00:00Z", "git_sha": "0123456789" * 4, "git_dirty": False}
    attempt |= {"cpu": "a processor", "gpus": [], "threads": 1}
    status = {"state": state, "attempts": [attempt], "error": error}
    (path / "status.json").write_text(json.dumps(status))
    lines = [line for at in zip(steps, scores, strict=False) for line in records(*at, rates)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def records(step, score, rates):
    """A training record and an evaluation."""
    at = {"step": step, "frames": step, "wall_seconds": step / 100}
    spikes = {f"snn/firing_rate/{layer}": r for layer, r in zip(LAYERS, rates, strict=True)}
    spikes |= {f"snn/silent_fraction/{layer}": 0.5 for layer in LAYERS}
    spikes |= {f"snn/saturated_fraction/{layer}": 0.0 for layer in LAYERS}
    yield at | {"train/return": score / 2, "time/steps_per_second": 100.0} | spikes
    returns = [score - 1.0, score + 1.0]
    yield at | {
        "iteration": step // 1_000,
        "eval/returns": returns,
        "eval/return_mean": score,
        "eval/return_std": 1.0,
        "eval/length_steps_mean": 10.0,
    }
