"""Metrics of texts: answers and reports against the gold ones."""
