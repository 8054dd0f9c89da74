"""Retrieval of earlier work, each from its own formula, over the same vectors as everyone's."""
