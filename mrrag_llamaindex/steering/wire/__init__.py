"""Steering of one request as it travels to a serving engine, and the report that comes back."""
