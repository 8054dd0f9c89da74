"""The bridge without LlamaIndex's types, for the bridges to other hosts."""
