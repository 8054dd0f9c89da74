"""Training records, mined from a generator."""
