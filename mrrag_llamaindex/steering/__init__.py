"""Relevance-steered attention (IFA): plans, attention functions and the models that carry them."""
