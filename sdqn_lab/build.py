"""The composition root: config -> objects. The only caller of ``hydra.utils.instantiate``."""

import inspect
import os
from collections.abc import Mapping
from typing import Any

import torch
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from sdqn_lab.agents.dqn import DQN
from sdqn_lab.agents.replay import Replay
from sdqn_lab.agents.schedules import LinearSchedule
from sdqn_lab.envs.base import Protocol, VectorEnv
from sdqn_lab.networks.blocks import Block
from sdqn_lab.networks.value import ValueNetwork
from sdqn_lab.spiking.neuron import Neuron
from sdqn_lab.tracking.recorder import Recorder
from sdqn_lab.training.loop import Settings, Trainer
from sdqn_lab.training.seeding import stream_seed

OPTIMIZERS: Mapping[str, type[torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}


def build_network(
    cfg: DictConfig, observation_shape: tuple[int, ...], num_actions: int
) -> ValueNetwork:
    """Build the Q-network; weights are drawn from torch's global generator, in parameter order.

    Args:
        cfg: a composed config.
        observation_shape: (C, H, W), or (F,) for vectors.
        num_actions: A.

    Returns:
        A module mapping observations (B, C, H, W) uint8, or (B, F), to Q-values (B, A).

    Raises:
        ValueError: the network cannot take this observation, or an argument is out of range.
    """
    first = make_neuron(cfg)

    def make_norm(shape: tuple[int, ...]) -> nn.Module:
        scale = {"v_threshold": first.v_threshold, "v_reset": first.v_reset}
        norm: nn.Module = _instantiate(cfg.norm, normalized_shape=shape, **scale)
        return norm

    torso = _instantiate(
        cfg.network,
        observation_shape=tuple(observation_shape),
        make_neuron=lambda: make_neuron(cfg),
        make_norm=make_norm,
    )
    for module in torso.modules():
        if isinstance(module, Block):
            module.precision = cfg.precision
    readout = _instantiate(cfg.readout, in_features=torso.num_features, num_actions=num_actions)
    return ValueNetwork(
        torso,
        _instantiate(cfg.encoder),
        readout,
        time_window=cfg.time_window,
        observation_scale=cfg.env.observation_scale,
    )


def make_neuron(cfg: DictConfig) -> Neuron:
    """One layer's neurons; the surrogate is handed to those that have one.

    Raises:
        ValueError: an argument is out of range, or backend=fused and the neuron has no fused form.
    """
    wants = inspect.signature(get_class(cfg.neuron._target_)).parameters
    extra = {"surrogate": _instantiate(cfg.surrogate)} if "surrogate" in wants else {}
    neuron: Neuron = _instantiate(cfg.neuron, **extra)
    neuron.backend = cfg.backend
    if cfg.backend == "fused" and neuron.temporal and not neuron.fusible:
        raise ValueError(
            f"backend=fused needs a neuron with constant slopes, {type(neuron).__name__} has none: "
            "write backend=auto"
        )
    return neuron


def _instantiate(node: DictConfig, **extra: Any) -> Any:
    """Hydra's instantiate; objects go past OmegaConf, which would copy them into configs."""
    plain = OmegaConf.to_container(node, resolve=True)
    return instantiate(plain, _partial_=True, _convert_="all")(**extra)


def build_env(cfg: DictConfig, num_envs: int) -> VectorEnv:
    """The environment of a config, ``num_envs`` copies stepped together."""
    protocol = Protocol(**OmegaConf.to_container(cfg.protocol))  # type: ignore[arg-type]
    cls = get_class(cfg.env._target_)
    threaded = "num_threads" in inspect.signature(cls).parameters
    extra = {"num_threads": resolve_threads(cfg.get("threads"))} if threaded else {}
    env: VectorEnv = cls(cfg.env.id, num_envs, protocol, **extra)
    return env


def resolve_threads(threads: int | None) -> int:
    """CPU threads to use: as configured, else what the scheduler gave this process."""
    if threads is not None:
        return threads
    allowed = len(os.sched_getaffinity(0))
    return min(allowed, int(os.environ.get("SLURM_CPUS_PER_TASK", allowed)))


def frame_shape(env: VectorEnv) -> tuple[int, ...]:
    """Shape of what replay stores a step: the newest frame of the stacked observation."""
    return (env.observation_shape[0] // env.stack, *env.observation_shape[1:])


def frame_dtype(env: VectorEnv) -> torch.dtype:
    """Torch's name of the environment's observation type."""
    return torch.from_numpy(env.reset(seed=0)[:0]).dtype


def resolve_device(device: str) -> torch.device:
    """``auto`` is the GPU where there is one."""
    if device != "auto":
        return torch.device(device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def build_agent(cfg: DictConfig, observation_shape: tuple[int, ...], num_actions: int) -> DQN:
    """Networks, optimizer and the agent around them; weights are drawn from the seed."""
    device = resolve_device(cfg.device)
    with torch.random.fork_rng():
        torch.manual_seed(stream_seed(cfg.seed, "init"))
        network = build_network(cfg, observation_shape, num_actions).to(device)
    with torch.random.fork_rng():
        target = build_network(cfg, observation_shape, num_actions).to(device)
    target.load_state_dict(network.state_dict())
    algo = cfg.algo
    optimizer = OPTIMIZERS[algo.optimizer](  # type: ignore[call-arg]
        network.parameters(),
        lr=algo.learning_rate,
        eps=algo.adam_eps,
        weight_decay=algo.weight_decay,
        fused=True,
    )
    generator = torch.Generator(device).manual_seed(stream_seed(cfg.seed, "encoder"))
    return DQN(
        network,
        target,
        optimizer,
        num_actions=num_actions,
        double=algo.double,
        loss=algo.loss,
        target_update_every_updates=algo.target_update_every_updates,
        target_ema=algo.target_ema,
        max_grad_norm=algo.max_grad_norm,
        generator=generator,
    )


def build_replay(cfg: DictConfig, env: VectorEnv) -> Replay:
    """Replay memory of the configured size, on the CPU or on the device."""
    algo = cfg.algo
    device = resolve_device(cfg.device) if algo.replay_device == "device" else "cpu"
    return Replay(
        algo.replay_capacity_steps,
        algo.num_envs,
        frame_shape(env),
        env.stack,
        dtype=frame_dtype(env),
        device=device,
    )


def build_settings(cfg: DictConfig) -> Settings:
    """The trainer's numbers, out of algo, budget and protocol."""
    algo, protocol = cfg.algo, cfg.protocol
    epsilon = LinearSchedule(algo.epsilon_begin, algo.epsilon_end, algo.epsilon_decay_steps)
    return Settings(
        seed=cfg.seed,
        steps=cfg.budget.steps,
        log_every_steps=cfg.budget.log_every_steps,
        iteration_steps=algo.iteration_steps,
        replay_start_steps=algo.replay_start_steps,
        learn_every_steps=algo.learn_every_steps,
        batch_size=algo.batch_size,
        n_step=algo.n_step,
        gamma=algo.gamma,
        epsilon=epsilon,
        epsilon_eval=protocol.epsilon_eval,
        time_window_eval=cfg.time_window_eval,
        reward_clipping=protocol.reward_clipping,
        life_loss_ends_bootstrap=protocol.life_loss_ends_bootstrap,
    )


def build_trainer(
    cfg: DictConfig,
    agent: DQN,
    train_env: VectorEnv,
    eval_env: VectorEnv,
    recorder: Recorder,
    **hooks: Any,
) -> Trainer:
    """The trainer with its replay; ``hooks``: its save, save_due and stop_requested."""
    replay = build_replay(cfg, train_env)
    return Trainer(build_settings(cfg), agent, replay, train_env, eval_env, recorder, **hooks)
