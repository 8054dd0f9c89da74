"""Synthetic studies with known truth, and small weights trained on them (no real patients)."""
