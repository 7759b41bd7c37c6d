"""Configs that earlier versions stored, in the form of today."""

from typing import Any

# The only algorithm there was when a config named none.
ALGO_BEFORE = "sdqn_lab.agents.dqn.DQN"
TRACKERS_BEFORE = {"sdqn_lab.tracking.recorder.NoMirror": "sdqn_lab.tracking.tracker.NoTracker"}
FAMILIES = {"Atari": "atari", "MinAtar": "minatar"}
LATER: dict[str, Any] = {
    "algo.spike_gradient": "surrogate",
    "encoder.learned": False,
    "encoder.stochastic": False,
    "env.normalize_observations": False,
    "env.normalize_rewards": False,
    "env.observation_clip": 10.0,
    "neuron.learn_threshold": False,
    "torso": None,
}
"""Keys that came later, with the value that stands for what there was before."""


def upgraded(config: dict[str, Any]) -> dict[str, Any]:
    """The content of a run's `config.yaml` as this version would have written it.

    Until version 0.1 `algo` was no plug-in, and environments knew the sizes of one algorithm. What
    is no such config is given back as it is.
    """
    algo, env, budget = (config.get(group) for group in ("algo", "env", "budget"))
    if not (isinstance(algo, dict) and isinstance(env, dict) and isinstance(budget, dict)):
        return config
    if "_target_" in algo:
        return config
    choices = config.get("choices")
    size = choices.get("budget") if isinstance(choices, dict) else None
    family = FAMILIES.get(str(env.get("_target_")).rpartition(".")[2], "classic")
    env = {key: value for key, value in env.items() if key != "dqn"}
    tracker = config.get("tracker")
    if isinstance(tracker, dict) and tracker.get("_target_") in TRACKERS_BEFORE:
        config = config | {"tracker": {"_target_": TRACKERS_BEFORE[tracker["_target_"]]}}
    return config | {
        "algo": {"_target_": ALGO_BEFORE, **algo},
        "env": {**env, "family": family},
        "budget": {**budget, "size": size or "full"},
    }
