"""A trained agent out of a run directory."""

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from omegaconf import DictConfig, OmegaConf
from safetensors import safe_open

from sdqn_lab import build
from sdqn_lab.networks.value import ValueNetwork
from sdqn_lab.training.seeding import stream_seed
from sdqn_lab.validation import check_plugins


class Player:
    """Acts greedily with a trained network; reading it executed nothing of the run directory.

    Args:
        cfg: the run's config.
        network: its weights loaded; it is put into evaluation mode.
    """

    def __init__(self, cfg: DictConfig, network: ValueNetwork) -> None:
        self.cfg = cfg
        self.network = network.eval()
        self._generator = torch.Generator().manual_seed(stream_seed(cfg.seed, "player"))

    @torch.no_grad()
    def q_values(self, observations: npt.NDArray[Any] | torch.Tensor) -> npt.NDArray[np.float32]:
        """Values (N, A) of observations (N, ...) as the environment gives them."""
        inputs = torch.as_tensor(observations)
        window = self.cfg.time_window_eval
        values = self.network(inputs, time_window=window, generator=self._generator)
        return values.numpy()  # type: ignore[no-any-return]

    def act(self, observations: npt.NDArray[Any] | torch.Tensor) -> npt.NDArray[np.int64]:
        """The greedy action (N,) for each observation; of equal values the first."""
        actions: npt.NDArray[np.int64] = self.q_values(observations).argmax(axis=1)
        return actions


def load(run_dir: Path | str, which: Literal["last", "best"] = "last") -> Player:
    """Load the agent of a run directory onto the CPU.

    Args:
        run_dir: of a run that reached at least one checkpoint.
        which: the network at the end, or that of the best evaluation.

    Raises:
        FileNotFoundError: no run is there, or no network was saved yet.
        ConfigError: the config names a class that is no part of a network.
    """
    path = Path(run_dir)
    weights = path / f"network_{which}.safetensors"
    for file in (path / "config.yaml", weights):
        if not file.exists():
            raise FileNotFoundError(f"{file}: not there, so {path} holds no trained network")
    cfg = OmegaConf.load(path / "config.yaml")
    assert isinstance(cfg, DictConfig)
    check_plugins(cfg)
    with safe_open(weights, framework="pt") as file:
        facts = file.metadata()
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    ends = json.loads(facts["ends"])
    network = build.build_network(cfg, tuple(ends["observation_shape"]), ends["num_actions"])
    network.load_state_dict(tensors)
    return Player(cfg, network)
