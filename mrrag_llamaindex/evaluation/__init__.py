"""Data sets, answer parsing, metrics, the harness, the noise study, baselines."""
