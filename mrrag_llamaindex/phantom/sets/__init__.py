"""Sets of synthetic questions."""
