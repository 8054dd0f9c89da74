"""Dual encoders of images and texts, loaded and used."""
