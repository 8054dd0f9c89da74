"""Answers from vLLM, in this process or from a server, as `LlavaEngine` gives them."""
