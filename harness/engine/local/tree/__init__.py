"""Prefix trees over token sequences, cut into packs of tokens. Knows numbers; refuses to know models."""
