"""Decoding beyond greedy."""
