"""Agents and their parts: replay, rollout, returns, losses, schedules, DQN, PQN."""
