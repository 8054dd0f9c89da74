"""Pairs in Chroma."""
