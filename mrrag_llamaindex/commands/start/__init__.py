"""The first hour: ``init``, ``status``."""
