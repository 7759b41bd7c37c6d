"""Agents and their parts: replay, rollout, returns, losses, schedules; one file an algorithm."""
