"""Training on many devices: layouts, memory per rank, time per step, and the search for both."""
