"""Checkpoints in the layout of open_clip, read without it."""
