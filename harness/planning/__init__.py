"""From a configuration to everything a run needs and what it costs: data, cells, work units, prompt lengths.

Knows tokenizers and sizes; refuses to load a model or to start Ray.
"""
