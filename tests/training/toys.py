"""Trainers on toy environments, built from the real configs."""

from sdqn_lab import config
from sdqn_lab.assembly import build
from sdqn_lab.envs.base import Protocol
from sdqn_lab.training.trainer import Settings, Trainer
from tests.toy_envs import Chain, Identity

TINY = [
    "env=cartpole",
    "network.hidden=32",
    "time_window=4",
    "algo.num_envs=4",
    "algo.replay_start_steps=64",
    "algo.replay_capacity_steps=4000",
    "algo.epsilon_decay_steps=800",
    "algo.target_update_every_updates=50",
    "algo.learn_every_steps=1",
    "protocol.eval_episodes=4",
]


class Tape:
    """A recorder that keeps everything."""

    def __init__(self):
        self.records = []
        self.events = []

    def metrics(self, counters, frames, values):
        self.records.append({"step": counters.steps, "frames": frames, **values})

    def event(self, counters, frames, line):
        self.events.append(line)

    def progress(self, counters, values):
        pass

    def evaluations(self):
        return [r["eval/return_mean"] for r in self.records if "eval/return_mean" in r]


def toy_config(*overrides):
    return config.compose([*TINY, *overrides])


def toy_trainer(cfg, make_env=lambda n, protocol: Identity(4, n, protocol), **hooks):
    """A trainer and its tape; `make_env(num_envs, protocol)` makes both environments."""
    protocol = Protocol(**cfg.protocol)
    train_env = make_env(cfg.algo.num_envs, protocol)
    eval_env = make_env(cfg.protocol.eval_episodes, protocol)
    agent = build.build_agent(cfg, build.env_spec(train_env))
    tape = Tape()
    hooks.setdefault("save", lambda trainer: None)
    return Trainer(Settings.of(cfg), agent, train_env, eval_env, tape, **hooks), tape


def chain(num_envs, protocol):
    return Chain(5, num_envs, protocol)
