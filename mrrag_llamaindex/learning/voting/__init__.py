"""Answers without a generator: what the retrieved pairs themselves answered, by vote."""
