"""Data sets, read and embedded."""
