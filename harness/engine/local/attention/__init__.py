"""Attention over a prefix tree: the kernels, their choice, and the keys and values that are kept."""
