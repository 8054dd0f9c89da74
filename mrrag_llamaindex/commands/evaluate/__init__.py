"""Measure: evaluation and noise."""
