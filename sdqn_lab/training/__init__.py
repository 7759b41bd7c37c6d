"""The trainer: loop, evaluation, checkpoint, health check, seeding."""
