"""Adapters: what was learnt beside a model, put onto it before it is steered."""
