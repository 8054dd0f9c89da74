"""Intervals and splits by patient."""
