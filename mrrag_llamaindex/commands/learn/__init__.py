"""Learn from pairs and questions."""
