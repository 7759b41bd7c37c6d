"""What builds a config's parts, by the names that programs outside this package use."""

from sdqn_lab.assembly.build import (
    agent_class,
    algo_arguments,
    build_agent,
    build_env,
    build_network,
    env_spec,
    initial_network,
)

__all__ = [
    "agent_class",
    "algo_arguments",
    "build_agent",
    "build_env",
    "build_network",
    "env_spec",
    "initial_network",
]
