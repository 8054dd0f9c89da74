"""Tables of pairs and questions, their vectors, and the way into a store."""
