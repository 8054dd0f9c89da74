"""Reports from an image and similar cases: ``draft``."""
