"""A generator as LlamaIndex holds it: its settings, and the model that they describe."""
