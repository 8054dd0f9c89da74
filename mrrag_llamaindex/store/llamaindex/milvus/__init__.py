"""Pairs in Milvus: on a server, or in a folder."""
