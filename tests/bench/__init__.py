"""The benchmark: this project beside the alternatives, same weights and prompts, in one run.

    python -m tests.bench --help

Needs torch, transformers, pandas and pyarrow; neither Ray nor OmegaConf. lm-evaluation-harness takes
part where it is installed.
"""
