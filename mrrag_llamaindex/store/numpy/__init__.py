"""Exact ranking in memory."""
