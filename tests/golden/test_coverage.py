import importlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.golden import FOLDER

TESTS = FOLDER.parent
EXPECTED = {
    "surrogate": 8,
    "neuron": 49,
    "popnorm": 23,
    "pdbatchnorm2d": 1,
    "net_reduced": 44,
    "net_full": 9,
    "nstep": 6,
    "qlambda": 4,
    "quantile": 7,
    "latency": 5,
    "delta": 2,
    "first_spike": 5,
    "gae": 4,
    "ppo_categorical": 3,
    "ppo_gaussian": 1,
    "alif": 2,
    "threshold": 4,
    "nir": 4,
    "score_function": 2,
    "mstdp": 8,
    "rmax": 1,
    "pop_encoder": 2,
    "pop_actor": 2,
}


def test_every_golden_file_is_there() -> None:
    found = Counter(
        next((kind for kind in EXPECTED if path.name.startswith(kind)), path.name)
        for path in FOLDER.glob("*.npz")
    )
    assert found == EXPECTED


def test_every_golden_file_is_a_case_of_a_test() -> None:
    used = {value.name for value in _parameters() if isinstance(value, Path)}
    unused = {path.name for path in FOLDER.glob("*.npz")} - used
    assert not unused


def _parameters() -> Iterator[Any]:
    """Every value that some test which reads golden files is parametrized with."""
    for path in TESTS.rglob("test_*.py"):
        if path == Path(__file__) or "golden" not in path.read_text():
            continue
        name = ".".join(path.relative_to(TESTS.parent).with_suffix("").parts)
        for test in vars(importlib.import_module(name)).values():
            for mark in getattr(test, "pytestmark", []):
                if mark.name == "parametrize":
                    for values in mark.args[1]:
                        yield from getattr(values, "values", (values,))
