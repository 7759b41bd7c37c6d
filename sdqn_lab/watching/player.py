"""A trained agent out of a run directory."""

from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from omegaconf import DictConfig, OmegaConf

from sdqn_lab.agents.policy import Greedy, Policy
from sdqn_lab.agents.seeding import stream, stream_seed
from sdqn_lab.assembly import build
from sdqn_lab.checks.refused import ConfigError, Refused, one_line
from sdqn_lab.config.schema import conf_dir
from sdqn_lab.config.stored import stored_config
from sdqn_lab.envs.base import (
    ActionBox,
    Actions,
    ActionSpace,
    Protocol,
    VectorEnv,
    action_space,
)
from sdqn_lab.envs.normalization import STORED, Normalizer
from sdqn_lab.networks.fingerprint import stored
from sdqn_lab.networks.network import SpikingNetwork
from sdqn_lab.runs.directory import RunDirectory


class Player:
    """A trained network that acts; reading it executed nothing of the run directory.

    Args:
        cfg: the run's config.
        network: its weights loaded; it is put into evaluation mode.
        actions: how many there are, or what continuous ones lie in.
        normalizer: of a run that normalized observations, as it was when the network was saved.

    Attributes:
        num_actions: A, or how many numbers D make one action.
        policy: how it acts, without exploration of its own.
    """

    def __init__(
        self,
        cfg: DictConfig,
        network: SpikingNetwork,
        actions: ActionSpace,
        normalizer: Normalizer | None = None,
    ) -> None:
        self.cfg = cfg
        self.normalizer = normalizer
        self.network = network.eval()
        self.actions = actions
        # Named streams of the seed, as everywhere; training's own are not touched.
        self._draws = torch.Generator().manual_seed(stream_seed(cfg.seed, "player"))
        self.policy = self._policy(epsilon=0.0)
        self.num_actions = self.policy.num_actions
        self._rng = stream(cfg.seed, "player/actions")

    @property
    def time_window(self) -> int:
        """T that it plays with by itself; 1 for a network without time."""
        if not self.network.temporal:
            return 1
        return int(self.cfg.time_window_eval or self.cfg.time_window)

    @property
    def game(self) -> str:
        """The option of `env`; the id where one option stands for many games."""
        option = self.cfg.choices.get("env")
        # `gymnasium` stands for any environment, and a run without choices names no option.
        return str(self.cfg.env.id if option in (None, "gymnasium") else option)

    @property
    def arm(self) -> str:
        """The experiment's name, or the axes."""
        choices = self.cfg.choices
        axes = ("neuron", "norm", "surrogate") if self.network.temporal else ("neuron", "norm")
        return str(choices.get("experiment") or " ".join(str(choices.get(axis)) for axis in axes))

    @property
    def protocol(self) -> Protocol:
        """The rules that it plays under."""
        return Protocol(**OmegaConf.to_container(self.cfg.protocol))  # type: ignore[arg-type]

    def q_values(
        self, observations: npt.NDArray[Any] | torch.Tensor, time_window: int | None = None
    ) -> npt.NDArray[np.float32]:
        """Values (N, A) of observations (N, ...) as the environment gives them.

        Args:
            observations: a batch, neither scaled nor normalized.
            time_window: T; None: the run's own.

        Raises:
            TypeError: the algorithm learned no action values.
        """
        if not isinstance(self.policy, Greedy):
            algo = self.cfg.choices.get("algo")
            raise TypeError(f"q_values: algo={algo} has no action values; use act(observations)")
        window = time_window or self.cfg.time_window_eval
        outputs = self.policy.outputs(self._shown(observations), window)
        return self.policy.values(outputs).numpy()

    def act(self, observations: npt.NDArray[Any] | torch.Tensor) -> Actions:
        """The action for each of the observations (N, ...), without random exploration.

        Args:
            observations: as for `q_values`.

        Returns:
            (N,) int64; or (N, D) float32, within their bounds, where actions are continuous.
        """
        window = self.cfg.time_window_eval
        return self.policy.act(self._shown(observations), self._rng, window).actions

    def _shown(self, observations: npt.NDArray[Any] | torch.Tensor) -> npt.NDArray[Any]:
        """What the network sees of observations."""
        raw = np.ascontiguousarray(observations)
        return raw if self.normalizer is None else self.normalizer(raw)

    def evaluated(self) -> Policy:
        """How it acts in an evaluation under its protocol, with that one's random actions."""
        return self._policy(epsilon=self.protocol.epsilon_eval)

    def _policy(self, epsilon: float) -> Policy:
        make = build.agent_class(self.cfg).policy
        return make(self.network, self.actions, epsilon=epsilon, generator=self._draws)

    def make_env(self, num_envs: int) -> VectorEnv:
        """The run's game under the player's protocol, `num_envs` copies stepped together.

        Its observations are what the network sees: normalized already, if the run's were.

        Raises:
            ValueError: the environment cannot be made, or cannot honour the protocol.
        """
        return build.build_env(self.cfg, num_envs, self.normalizer)

    def under(self, protocol: str) -> "Player":
        """The same network under a protocol of `conf/protocol`, whose values replace the run's.

        Raises:
            Refused: there is no such protocol.
        """
        files = {file.stem: file for file in (conf_dir() / "protocol").glob("[!_]*.yaml")}
        if protocol not in files:
            raise Refused("protocol", protocol, f"must be one of {', '.join(sorted(files))}")
        cfg = self.cfg.copy()
        OmegaConf.update(cfg, "protocol", OmegaConf.load(files[protocol]), merge=True)
        cfg.choices.protocol = protocol
        return Player(cfg, self.network, self.actions, self.normalizer)


def load(
    run_dir: Path | str, which: Literal["last", "best"] = "last", trust: bool = False
) -> Player:
    """Load the agent of a run directory onto the CPU.

    Args:
        run_dir: of a run that reached at least one checkpoint.
        which: the network at the end, or that of the best evaluation.
        trust: import classes and environments that the run's config names outside this package.
            Importing runs code; write it for runs whose config you know.

    Raises:
        FileNotFoundError: no run is there, or no network was saved yet.
        ConfigError: the config names a class that is no part of a network or no environment, or
            code of others without `trust`; one of the two files is damaged, or a link.
    """
    path = Path(run_dir)
    config, weights = path / "config.yaml", path / f"network_{which}.safetensors"
    if not config.is_file():
        raise FileNotFoundError(
            f"{config}: not there, so {path} holds no run; write the directory of a run"
        )
    if not weights.is_file():
        raise FileNotFoundError(
            f"{weights}: not there, so {path} holds no trained network yet; the run saves one at "
            "its first evaluation, wait for it or write the directory of another run"
        )
    try:
        RunDirectory(path).check_links()
    except ValueError as error:
        raise ConfigError([Refused(str(path), None, str(error))]) from error
    cfg = stored_config(config, trust)
    try:
        tensors, ends, _ = stored(weights)
        shape, normalizer = tuple(ends["observation_shape"]), None
        if cfg.env.normalize_observations:
            normalizer = build.make_normalizer(cfg, shape)
            seen = {key: tensors.pop(name).numpy() for name, key in STORED.items()}
            normalizer.moments.load_state_dict(seen)
        actions: ActionSpace = ends.get("num_actions") or box_of(ends["box"])
        network = build.build_network(cfg, shape, actions)
        network.load_state_dict(tensors)
    # A damaged or foreign file may cause anything.
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(":")
        rule = f"not the network of this run's config ({reason}); put the file back"
        raise ConfigError([Refused(str(weights), None, rule)]) from error
    return Player(cfg, network, actions, normalizer)


def box_of(bounds: dict[str, list[float]]) -> ActionBox:
    """What continuous actions lie in, out of a network's file."""
    return ActionBox(tuple(bounds["low"]), tuple(bounds["high"]))


def check_game(player: Player) -> None:
    """Refuse an environment that cannot be made, breaks the protocol or does not fit the network.

    Raises:
        Refused: which of these.
    """
    name, game = player.cfg.choices.get("protocol"), player.cfg.env.id
    try:
        with closing(player.make_env(1)) as env:
            actions = action_space(env)
            if actions == player.actions:
                player.policy.outputs(env.reset(seed=0))
    # A user's environment may fail in any way.
    except Exception as error:
        raise Refused("protocol", name, f"env.id={game}: {one_line(error)}") from error
    if actions == player.actions:
        return
    if isinstance(actions, int) and isinstance(player.actions, int):
        full = str(player.protocol.full_action_space).lower()
        rule = f"has {actions} actions (protocol.full_action_space={full}), and the network"
        instead = "--protocol=NAME with the other action set, or none"
        raise Refused("protocol", name, f"{rule} was trained with {player.actions}", instead)
    rule = f"has actions {actions}, and the network was trained with {player.actions}"
    raise Refused("env.id", game, rule, "the id that it was trained with")
