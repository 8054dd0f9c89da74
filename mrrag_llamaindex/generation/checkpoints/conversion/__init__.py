"""Checkpoints written anew: from LLaVA's original layout, and for vLLM."""
