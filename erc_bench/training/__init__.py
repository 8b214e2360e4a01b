"""One training: its Trainer, checkpoints, curves and environment."""
