"""Generation: prompts with token spans, and a LLaVA engine that steers, streams and measures."""
