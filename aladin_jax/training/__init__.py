"""Training: the loop, a step, its losses and optimizer, checkpoints."""
