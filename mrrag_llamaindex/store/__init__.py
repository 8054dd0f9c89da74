"""Pairs, tables and the place that holds them."""
