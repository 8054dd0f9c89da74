"""Pairs in Qdrant: on a server, in a folder, or in memory."""
