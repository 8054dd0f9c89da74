"""Kinds of towers: ResNet and BERT, heads on frozen encoders, dual encoders of others."""
