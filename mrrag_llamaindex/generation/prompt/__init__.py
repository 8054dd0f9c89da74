"""Prompts with spans."""
