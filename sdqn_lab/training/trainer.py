"""The trainer: act, learn, log, evaluate, checkpoint; one path for every agent, spiking or not.

A run is a row of iterations. Each starts its environments anew from a seed of its own, trains for
`iteration_steps` agent steps, evaluates, probes its network and checkpoints.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig

from sdqn_lab.agents.base import Agent
from sdqn_lab.agents.seeding import stream, stream_seed
from sdqn_lab.envs.base import VectorEnv
from sdqn_lab.networks.probe import Probe, probe
from sdqn_lab.spiking.stats import SpikeRecorder
from sdqn_lab.tracking.recorder import Counters, Recorder
from sdqn_lab.training.collector import Collector
from sdqn_lab.training.evaluation import Start, evaluate
from sdqn_lab.training.health import Monitor
from sdqn_lab.training.window import Window


@dataclass(frozen=True)
class Settings:
    """The trainer's plain numbers; each has the unit in its name."""

    seed: int
    steps: int
    log_every_steps: int
    epsilon_eval: float
    time_window_eval: int | None
    reward_clipping: bool
    life_loss_ends_bootstrap: bool
    return_discount: float | None = None
    """Of the returns by whose deviation rewards are divided; None: they are not."""

    @classmethod
    def of(cls, cfg: DictConfig) -> "Settings":
        """Out of a config's budget and protocol."""
        protocol = cfg.protocol
        return cls(
            seed=cfg.seed,
            steps=cfg.budget.steps,
            log_every_steps=cfg.budget.log_every_steps,
            epsilon_eval=protocol.epsilon_eval,
            time_window_eval=cfg.time_window_eval,
            reward_clipping=protocol.reward_clipping,
            life_loss_ends_bootstrap=protocol.life_loss_ends_bootstrap,
            return_discount=cfg.algo.get("gamma", 1.0) if cfg.env.normalize_rewards else None,
        )


class StopRequested(Exception):  # noqa: N818  (not an error)
    """The run was asked to stop and has saved what it needs to go on."""


class Trainer:
    """Trains one agent on one game until its budget is spent."""

    def __init__(
        self,
        settings: Settings,
        agent: Agent,
        train_env: VectorEnv,
        eval_env: VectorEnv,
        recorder: Recorder,
        *,
        save: Callable[["Trainer"], None],
        probed: Callable[[int, Probe], None] = lambda step, seen: None,
        save_due: Callable[[], bool] = lambda: False,
        stop_requested: Callable[[], bool] = lambda: False,
    ) -> None:
        self.settings, self.agent = settings, agent
        self.counters = Counters()
        self.window = Window()
        self.monitor = Monitor()
        self._eval_env, self._recorder = eval_env, recorder
        self._save, self._save_due, self._stop_requested = save, save_due, stop_requested
        self._probed = probed
        self._frames_per_step = train_env.frames_per_step
        self.collector = Collector(
            train_env,
            reward_clipping=settings.reward_clipping,
            life_loss_ends_bootstrap=settings.life_loss_ends_bootstrap,
            return_discount=settings.return_discount,
        )

    def run(self) -> None:
        """Train to the end of the budget.

        Raises:
            StopRequested: a stop was requested; the state is saved.
        """
        counters, settings = self.counters, self.settings
        agent, collector = self.agent, self.collector
        # Steps, the end of an iteration or its evaluation are still to come.
        while collector.running or counters.trained or counters.steps < settings.steps:
            if not (collector.running or counters.trained):
                collector.start(stream_seed(settings.seed, "env", counters.iteration))
            end = min((counters.iteration + 1) * agent.iteration_steps, settings.steps)
            while collector.running and counters.steps < end:
                decision = agent.act(collector.observations, counters.steps)
                row, episodes = collector.step(decision.actions)
                agent.observe(row, decision.extras)
                # Environments that only start a new episode take no agent step.
                counters.steps += int(np.count_nonzero(row.valid))
                counters.episodes += len(episodes)
                for score, length_steps in episodes:
                    self.window.add({"train/return": score, "train/length_steps": length_steps})
                for metrics in agent.learn(counters.steps):
                    # `learn` waits at its yield, so these gradients are still those of the update.
                    norms = agent.gradient_norms().items()
                    layers = {f"grad/norm/{layer}": norm for layer, norm in norms}
                    self.window.add({**metrics, **layers})
                    counters.updates += 1
                self._log_if_due()
                self._save_if_due()
            if collector.running:
                agent.close(collector.observations)
                collector.running, counters.trained = False, True
            # An evaluation may take minutes: a stop that came before it is answered now.
            self._save_if_due()
            self._evaluate()
            self._probe()
            # One save for all of it: cut off before, evaluation and probe are made again, and the
            # evaluation's record, which lies beyond the saved offset, is written anew.
            counters.iteration, counters.trained = counters.iteration + 1, False
            self._save(self)

    def _log_if_due(self) -> None:
        counters, agent, period = self.counters, self.agent, self.settings.log_every_steps
        own = agent.metrics(counters.steps)
        self._recorder.progress(counters, own)
        # By quotients: a vector step makes up to N agent steps and may jump over a multiple.
        if counters.steps // period == counters.logged_steps // period:
            return
        counters.logged_steps = counters.steps
        counts = {"updates": counters.updates, "episodes": counters.episodes}
        values = {**own, **counts, **self.window.flush()}
        if (seen := self._remembered("statistics")) is not None:
            with SpikeRecorder(agent.network) as firing, torch.no_grad():
                agent.network.eval()(seen, generator=self._draws("statistics/encoder"))
            for layer, stats in firing.layers().items():
                values |= {f"snn/{name}/{layer}": value for name, value in stats._asdict().items()}
        self._recorder.metrics(counters, self._frames, values)
        for line in self.monitor.observe(values, counters.updates):
            self._recorder.event(counters, self._frames, line)

    def _probe(self) -> None:
        if (seen := self._remembered("probe")) is not None:
            found = probe(self.agent.network, seen, generator=self._draws("probe/encoder"))
            self._probed(self.counters.steps, found)

    def _remembered(self, purpose: str) -> torch.Tensor | None:
        """Observations for a look at the network, drawn apart from learning's; None: too few."""
        rng = stream(self.settings.seed, purpose, self.counters.steps)
        observations = self.agent.sample(rng)
        return None if observations is None else observations.to(self.agent.device)

    def _draws(self, name: str) -> torch.Generator:
        """Where a random encoder draws from in a look at the network at this step."""
        seed = stream_seed(self.settings.seed, name, self.counters.steps)
        return torch.Generator(self.agent.device).manual_seed(seed)

    def _evaluate(self) -> None:
        settings, counters, agent = self.settings, self.counters, self.agent
        # A generator of its own: `evaluate` seeds it, and the agent's must go on where it was.
        policy = agent.policy(
            agent.network,
            agent.env.actions,
            epsilon=settings.epsilon_eval,
            generator=torch.Generator(agent.device),
        )
        played = evaluate(
            policy,
            self._eval_env,
            Start(settings.seed, counters.iteration),
            time_window=settings.time_window_eval,
            stop_requested=self._stop_requested,
        )
        # Asked to stop: begun again, the evaluation plays the same episodes from their start.
        if played is None:
            self._save(self)
            raise StopRequested
        returns = np.array(played.returns)
        mean = float(returns.mean())
        if counters.best_return is None or mean > counters.best_return:
            counters.best_return, counters.best_steps = mean, counters.steps
        values = {
            "iteration": counters.iteration + 1,
            "eval/return_mean": mean,
            "eval/return_std": float(returns.std()),
            "eval/returns": played.returns,
            "eval/length_steps_mean": float(np.mean(played.lengths_steps)),
        }
        self._recorder.metrics(counters, self._frames, values)

    @property
    def _frames(self) -> int:
        return self.counters.steps * self._frames_per_step

    def _save_if_due(self) -> None:
        stop = self._stop_requested()
        if stop or self._save_due():
            self._save(self)
        if stop:
            raise StopRequested

    def state_dict(self) -> dict[str, Any]:
        """Everything but the memory's rows: tensors, arrays and plain containers only."""
        return {
            "counters": asdict(self.counters),
            "agent": self.agent.state_dict(),
            "collector": self.collector.state_dict(),
            "window": self.window.state_dict(),
            "monitor": self.monitor.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken; the memory must have been restored before."""
        self.counters = Counters(**state["counters"])
        self.agent.load_state_dict(state["agent"])
        self.collector.load_state_dict(state["collector"])
        self.window.load_state_dict(state["window"])
        self.monitor.load_state_dict(state["monitor"])
