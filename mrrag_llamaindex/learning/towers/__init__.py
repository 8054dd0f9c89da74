"""Dual encoders, trained."""
