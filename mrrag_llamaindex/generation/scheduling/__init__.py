"""Concurrent requests meet in one queue per model and run in batches."""
