"""Published measurements, predicted and scored; nothing of the planner imports this."""
