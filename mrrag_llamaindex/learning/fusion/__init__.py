"""Fusion weights, learned."""
