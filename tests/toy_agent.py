"""An on-policy actor-critic as a user would write it: one class, and `TOY` as its option file."""

import numpy as np
import torch

from sdqn_lab.agents.base import Agent, Decision, Row
from sdqn_lab.agents.policy import Policy
from sdqn_lab.agents.seeding import stream
from sdqn_lab.checks.ranges import Count, Positive, check_arguments

TOY = """
_target_: tests.toy_agent.ToyActor
num_envs: 4
iteration_steps: 200
rollout_rows: 16
learning_rate: 1.0e-2
"""


class Sampled(Policy):
    outputs_name, head = "logits", "policy"

    def choose(self, outputs, rng):
        return (outputs.cpu().numpy() + rng.gumbel(size=outputs.shape)).argmax(1)


class ToyActor(Agent):
    """Each `rollout_rows`: one step on log pi(a|s) (r - v(s)) and (r - v(s))^2."""

    def __init__(
        self, network, env, *, seed, num_envs: Count, iteration_steps: Count, rollout_rows: Count,
        learning_rate: Positive = 1e-2,
    ) -> None:  # fmt: skip
        check_arguments(ToyActor.__init__, locals())
        super().__init__(
            network, env, seed=seed, num_envs=num_envs, iteration_steps=iteration_steps
        )
        self.optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate)
        self.rollout_rows, self.rows = rollout_rows, []
        self.seen, self.rng = None, stream(seed, "explore")

    def act(self, observations, step):
        policy = self.policy(self.network, self.env.num_actions)
        return Decision(policy.act(observations, self.rng).actions, {})

    def observe(self, row, extras):
        self.rows.append(row)
        self.seen = row.observations

    def learn(self, step):
        if len(self.rows) < self.rollout_rows:
            return
        seen, actions, rewards, _, valid = (
            torch.from_numpy(np.concatenate(column)) for column in zip(*self.rows, strict=True)
        )
        out, self.rows = self.network.train()(seen), []
        advantage = rewards - out["value"][:, 0]
        chosen = out["policy"].log_softmax(1)[torch.arange(len(actions)), actions]
        loss = (valid * (advantage.square() - chosen * advantage.detach())).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        yield {"loss/actor_critic": loss.detach()}

    def sample(self, rng):
        return None if self.seen is None else torch.from_numpy(self.seen)

    def state_dict(self):
        parts = {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}
        return parts | {"rows": self.rows, "seen": self.seen, "rng": self.rng.bit_generator.state}

    def load_state_dict(self, state):
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.rows, self.seen = [Row(*row) for row in state["rows"]], state["seen"]
        self.rng.bit_generator.state = state["rng"]

    @staticmethod
    def heads(num_actions, arguments):
        return {"policy": num_actions, "value": 1}

    @staticmethod
    def policy(network, num_actions, *, epsilon=0.0, generator=None):
        return Sampled(network, num_actions, epsilon=epsilon, generator=generator)
