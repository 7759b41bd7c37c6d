"""Access to the numbers of the original code; README.md says what each file holds."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sdqn_lab.spiking.neuron import IF, LIF, Neuron
from sdqn_lab.spiking.surrogate import Atan, Gate, QuadraticGate, Sigmoid, Surrogate

FOLDER = Path(__file__).parent
SURROGATES: dict[str, type[Surrogate]] = {
    "AtanGrad": Atan,
    "GateGrad": Gate,
    "QGateGrad": QuadraticGate,
    "SigmoidGrad": Sigmoid,
}

Case = dict[str, np.ndarray]


def cases(pattern: str) -> list[Any]:
    """The files that match, each a parameter named by its stem."""
    return [pytest.param(path, id=path.stem) for path in sorted(FOLDER.glob(f"{pattern}.npz"))]


def load(path: Path) -> Case:
    with np.load(path) as archive:
        return dict(archive)


def tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(array))


def surrogate_of(case: Case) -> Surrogate:
    return SURROGATES[str(case["surrogate"])](alpha=float(case["alpha"]))


def neuron_of(case: Case) -> Neuron:
    """Our neuron with the settings of a case; the original always starts at v_reset."""
    settings: dict[str, Any] = {
        "v_threshold": float(case["threshold"]),
        "v_reset": float(case["v_reset"]),
        "surrogate": surrogate_of(case),
    }
    if str(case["node"]) == "IFNode":
        return IF(**settings)
    return LIF(tau=float(case["tau"]), **settings)
