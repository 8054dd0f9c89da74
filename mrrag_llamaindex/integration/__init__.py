"""What LlamaIndex sees: index, retriever, postprocessor, synthesizer, LLM, and their tickets."""
