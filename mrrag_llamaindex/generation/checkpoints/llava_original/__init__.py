"""LLaVA's original checkpoint layout: read tensor by tensor, or converted to a folder."""
