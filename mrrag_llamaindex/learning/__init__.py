"""Everything that is learned from pairs and questions."""
