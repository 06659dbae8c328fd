"""Weights & Biases, in a process of its own. The only room that imports wandb. Knows figures, not their formulas."""
