"""A whole training job: days, money, energy, failures, checkpoints and what share is useful."""
