"""Agents and their parts: replay memory, n-step returns, losses, schedules, DQN."""
