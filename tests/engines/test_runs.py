"""Runs with compiled updates: killed and resumed, by any number of threads, by code from disk."""

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.numpy import load_file

from sdqn_lab.spiking.neuron import IF, LIF, ReLU
from tests.cells import kill_at, numbers, run
from tests.compiled import fingerprints_twice
from tests.engines.helpers import IMAGE, Minatar, seen
from tests.engines.test_updates import batch, dqn, pqn

COMMON = ["env=minatar_breakout", "backend=compiled", "tracker=none", "time_window=3"]
COMMON += ["budget.steps=1200", "budget.log_every_steps=150", "algo.iteration_steps=600"]
COMMON += ["algo.epsilon_decay_steps=600", "protocol.eval_episodes=2", "device=cpu"]
OFTEN = "checkpoint_every_minutes=0.0005"
"""So short that even on a fast machine there are several."""
DQN = [*COMMON, "algo.replay_start_steps=100", "algo.replay_capacity_steps=700"]
DQN += ["algo.learn_every_steps=8", "algo.n_step=3", "algo.target_ema=0.05"]
PQN = [*COMMON, "experiment=pl_pqn", "algo.num_envs=6", "algo.rollout_steps=16"]
PQN += ["algo.minibatches=3"]
CELLS = {"dqn": DQN, "pqn": PQN}
KILLS = {
    "dqn": [("learn", 40), ("save", 2), ("evaluate", 2)],
    "pqn": [("learn from a rollout", 10), ("save", 2)],
}


def weights(folder: Path) -> dict[str, bytes]:
    """Of the last network."""
    found = load_file(folder / "network_last.safetensors")
    return {key: value.tobytes() for key, value in found.items()}


@pytest.mark.slow  # tests/test_resume.py kills runs of both in each phase, by the same updates
@pytest.mark.parametrize("kind", CELLS)
def test_killed_again_and_again_a_run_resumes_to_the_same_bits(kind: str, tmp_path: Path) -> None:
    words, whole, killed = (
        [*CELLS[kind], "threads=1", OFTEN],
        tmp_path / "whole",
        tmp_path / "killed",
    )
    assert run(words, whole) == 0
    for call, count in KILLS[kind]:
        kill_at(call, count, words, killed)
    assert run(words, killed) == 0
    assert numbers(killed) == numbers(whole)
    assert weights(killed) == weights(whole)
    assert max(record.get("updates", 0) for record in numbers(whole)) > 60


@pytest.mark.parametrize("kind", CELLS)
def test_the_number_of_threads_does_not_count(kind: str, tmp_path: Path) -> None:
    for threads in (1, 2):
        assert run([*CELLS[kind], f"threads={threads}"], tmp_path / str(threads)) == 0
        assert torch.get_num_threads() == threads
    assert numbers(tmp_path / "1") == numbers(tmp_path / "2")
    assert weights(tmp_path / "1") == weights(tmp_path / "2")


def fingerprints() -> Iterator[str]:
    """One per neuron and algorithm, of what ten updates leave."""
    for make in (LIF, lambda: IF(reset="soft"), ReLU):
        for kind in (dqn, pqn):
            agent: Any = kind(Minatar(make, time_window=4), max_grad_norm=1.0)
            for number in range(10):
                one = batch(number)
                agent.update(one) if kind is dqn else agent.update(*one[:3])
            assert agent.general_path is None
            values = agent.policy(agent.network, 3).outputs(seen(IMAGE, 5))
            parts = [*agent.network.state_dict().values(), values]
            whole = b"".join(part.numpy().tobytes() for part in parts)
            yield f"{make().extra_repr()}, {kind.__name__}: {sha256(whole).hexdigest()}"


@pytest.mark.slow
def test_code_from_disk_computes_the_bits_of_the_process_that_compiled_it(tmp_path: Path) -> None:
    first, second = fingerprints_twice("tests.engines.test_runs", tmp_path)
    assert len(first) == len(set(first)) == 6
    assert first == second == list(fingerprints())
