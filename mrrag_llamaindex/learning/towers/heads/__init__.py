"""Heads on frozen encoders: features, training, scales, and what it was worth."""
