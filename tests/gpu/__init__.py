"""What only a GPU can show: tests (`make test-gpu`) and measurements (`make gpu-check`).

Needs torch, transformers, accelerate, pandas, pyarrow and pytest, and what those bring along.
"""
