"""What is asked of a model, what is right, and how it is scored: one object for each task."""
