"""Policies that are learned from what a model computes on training patients."""
