"""Training: task data, objective, loop, checkpoints and the weights that come out."""
