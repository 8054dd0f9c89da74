"""The attention hook and its backends."""
