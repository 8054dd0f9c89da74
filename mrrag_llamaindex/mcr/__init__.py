"""MCR: the score."""
