"""The composition root: config -> objects.

Hydra's `instantiate` is not used: it makes whatever a value names, at any depth. Here the class of
a group is called with the group's plain values, and nothing else of a config is ever called.
"""

import inspect
import os
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf
from torch import nn

from sdqn_lab.agents.base import Agent, EnvSpec
from sdqn_lab.agents.seeding import stream_seed
from sdqn_lab.checks.refused import Refused
from sdqn_lab.envs.base import ActionBox, ActionSpace, Protocol, VectorEnv, action_space
from sdqn_lab.envs.normalization import Normalized, Normalizer
from sdqn_lab.networks.blocks import Block, fully_connected
from sdqn_lab.networks.fingerprint import Stored, stored
from sdqn_lab.networks.network import SpikingNetwork
from sdqn_lab.spiking.encoder import Encoder
from sdqn_lab.spiking.neuron import Neuron


def build_network(
    cfg: DictConfig, observation_shape: tuple[int, ...], num_actions: ActionSpace
) -> SpikingNetwork:
    """Build the network that the config's algorithm needs.

    Weights are drawn from torch's global generator, in parameter order.

    Args:
        cfg: a composed config.
        observation_shape: (C, H, W), or (F,) for vectors.
        num_actions: A, or what continuous actions lie in.

    Returns:
        A module mapping observations (B, C, H, W) uint8, or (B, F), to the outputs of its heads;
        under a value-based algorithm these are Q-values (B, A).

    Raises:
        Refused: the network cannot take this observation, or an argument is out of range.
    """
    algorithm, arguments = agent_class(cfg), algo_arguments(cfg)
    width, gaussian = num_actions, None
    if isinstance(width, ActionBox):
        width, gaussian = width.size, algorithm.continuous_head
    heads, apart = algorithm.heads(width, arguments), algorithm.own_torsos(arguments)
    network = build_heads(cfg, observation_shape, heads, apart, gaussian)
    for head, gain in algorithm.head_gains.items():
        nn.init.orthogonal_(network.heads[head].linear.weight, gain)
    return network


def build_heads(
    cfg: DictConfig,
    observation_shape: tuple[int, ...],
    heads: Mapping[str, int],
    own_torsos: Collection[str] = (),
    gaussian: str | None = None,
) -> SpikingNetwork:
    """Build a network with heads of the given widths, some on their own torso, one of means.

    See `build_network`; heads have torch's initialization here.
    """
    # Asked and not read from the config: artificial neurons have no such keys, and count as
    # threshold 1 and reset 0 (docs/DEVIATIONS.md, row 20).
    first = make_neuron(cfg)
    scale = {"v_threshold": first.v_threshold, "v_reset": first.v_reset}
    # Torso before heads: weights are drawn in this order, and another would give other weights.
    encoder = make_encoder(cfg)
    layers: dict[str, Any] = {
        "make_neuron": lambda: make_neuron(cfg),
        "make_norm": lambda shape: _instantiate(cfg.norm, normalized_shape=shape, **scale),
    }
    shape = encoder.shape(tuple(observation_shape))
    torso, *others = (
        _instantiate(cfg.network, observation_shape=shape, **layers)
        for _ in range(1 + len(own_torsos))
    )
    wants = inspect.signature(get_class(cfg.readout._target_)).parameters
    own = {"make_layer": partial(fully_connected, **layers, normalize=True)}
    extra = {key: value for key, value in own.items() if key in wants}
    readouts = {
        name: _instantiate(cfg.readout, in_features=torso.num_features, num_actions=width, **extra)
        for name, width in heads.items()
    }
    encoder.make_weights(tuple(observation_shape))
    network = SpikingNetwork(
        torso,
        encoder,
        readouts,
        own_torsos=dict(zip(own_torsos, others, strict=True)),
        gaussian=None if gaussian is None else (gaussian, heads[gaussian]),
        time_window=cfg.time_window,
        observation_scale=cfg.env.observation_scale,
    )
    for module in network.modules():
        if isinstance(module, Block):
            module.precision = cfg.precision
    return network


def make_neuron(cfg: DictConfig) -> Neuron:
    """One layer's neurons; the surrogate is handed to those that have one.

    Raises:
        Refused: an argument is out of range, or backend=fused and there are no kernels.
    """
    wants = inspect.signature(get_class(cfg.neuron._target_)).parameters
    extra = {"surrogate": _instantiate(cfg.surrogate)} if "surrogate" in wants else {}
    neuron: Neuron = _instantiate(cfg.neuron, **extra)
    neuron.backend = cfg.backend
    if cfg.backend == "fused" and neuron.temporal and not neuron.fusible:
        parts = " with ".join(type(part).__name__ for part in (neuron, *extra.values()))
        learned = cfg.neuron.get("learn_threshold", False)
        parts += f" and neuron.learn_threshold={learned}" if learned else ""
        raise Refused("backend", "fused", f"there are no kernels for {parts}", "backend=auto")
    return neuron


def make_encoder(cfg: DictConfig) -> Encoder:
    """The encoder of a config.

    Raises:
        Refused: an argument is out of range.
    """
    encoder: Encoder = _instantiate(cfg.encoder)
    return encoder


def _instantiate(node: DictConfig, **extra: Any) -> Any:
    """Call the class of a group with the group's values and with what the config cannot hold."""
    plain = OmegaConf.to_container(node, resolve=True)
    assert isinstance(plain, dict)
    target = plain.pop("_target_")
    return get_class(target)(**{**plain, **extra})


def build_env(cfg: DictConfig, num_envs: int, normalizer: Normalizer | None = None) -> VectorEnv:
    """The environment of a config, `num_envs` copies stepped together.

    Args:
        cfg: a composed config.
        num_envs: N.
        normalizer: what training has seen, for a config that normalizes observations; it stays as
            it is. None: the environment gathers statistics of its own.

    Raises:
        Refused: the environment cannot be made, or its observations not be normalized.
    """
    protocol = Protocol(**OmegaConf.to_container(cfg.protocol))  # type: ignore[arg-type]
    cls = get_class(cfg.env._target_)
    threaded = "num_threads" in inspect.signature(cls).parameters
    extra = {"num_threads": resolve_threads(cfg.get("threads"))} if threaded else {}
    env: VectorEnv = cls(cfg.env.id, num_envs, protocol, **extra)
    if not cfg.env.normalize_observations:
        return env
    own = make_normalizer(cfg, env.observation_shape)
    return Normalized(env, normalizer or own, learning=normalizer is None)


def make_normalizer(cfg: DictConfig, observation_shape: tuple[int, ...]) -> Normalizer:
    """Statistics of observations, before the first.

    Raises:
        Refused: the observation is no vector.
    """
    return Normalizer(observation_shape, cfg.env.observation_clip)


def resolve_threads(threads: int | None) -> int:
    """CPU threads to use: as configured, else what the scheduler gave this process."""
    if threads is not None:
        return threads
    # Not the machine's CPUs: jobs and containers share it.
    allowed = len(os.sched_getaffinity(0))
    return min(allowed, int(os.environ.get("SLURM_CPUS_PER_TASK", allowed)))


def env_spec(env: VectorEnv) -> EnvSpec:
    """What an agent must know of an environment."""
    dtype = torch.from_numpy(np.empty(0, env.observation_dtype)).dtype
    space = action_space(env)
    box = space if isinstance(space, ActionBox) else None
    return EnvSpec(env.observation_shape, env.num_actions, env.stack, dtype, box)


def resolve_device(device: str) -> torch.device:
    """`auto` is the GPU where there is one."""
    if device != "auto":
        return torch.device(device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def agent_class(cfg: DictConfig) -> type[Agent]:
    """The class of a config's algorithm."""
    found: type[Agent] = get_class(cfg.algo._target_)
    return found


def algo_arguments(cfg: DictConfig) -> dict[str, Any]:
    """The arguments of a config's algorithm; what the config leaves out is its class's default."""
    plain = OmegaConf.to_container(cfg.algo, resolve=True)
    assert isinstance(plain, dict)
    own = inspect.signature(agent_class(cfg)).parameters.values()
    defaults = {each.name: each.default for each in own if each.default is not each.empty}
    return defaults | {str(key): value for key, value in plain.items() if key != "_target_"}


def initial_network(cfg: DictConfig, env: EnvSpec) -> SpikingNetwork:
    """The network that a run begins with, on its device; weights are drawn from the run's seed.

    Those of the torso that heads share are taken from the run that `torso` names, if it names one.
    """
    # Forked, because building a network must not move the stream of anything else.
    with torch.random.fork_rng():
        torch.manual_seed(stream_seed(cfg.seed, "init"))
        network = build_network(cfg, env.observation_shape, env.actions)
    if cfg.torso is not None:
        network.torso.load_state_dict(torso_weights(trained(cfg.torso)))
    # Moved only now: drawn on the CPU, a seed gives the same weights on every device.
    return network.to(resolve_device(cfg.device))


def trained(run_dir: str) -> Stored:
    """The last network of a run; see `stored`."""
    return stored(Path(run_dir) / "network_last.safetensors")


def torso_weights(network: Stored) -> dict[str, torch.Tensor]:
    """Tensors of a network's shared torso, by their names in it."""
    begin = "torso."
    return {
        name.removeprefix(begin): tensor
        for name, tensor in network.tensors.items()
        if name.startswith(begin)
    }


def build_agent(cfg: DictConfig, env: EnvSpec) -> Agent:
    """The agent that a run begins with."""
    network = initial_network(cfg, env)
    agent = agent_class(cfg)(network, env, seed=cfg.seed, **algo_arguments(cfg))
    if cfg.backend == "compiled" and (reason := agent.general_path):
        raise Refused("backend", "compiled", f"not for {reason}", "backend=auto")
    return agent
