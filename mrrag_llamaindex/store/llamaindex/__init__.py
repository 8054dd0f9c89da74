"""Pairs in any vector store of LlamaIndex that ranks by inner product; Qdrant and Milvus by URL."""
