"""Published checkpoints, loaded."""
