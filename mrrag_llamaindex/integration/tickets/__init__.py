"""How evidence reaches the LLM call it belongs to."""
