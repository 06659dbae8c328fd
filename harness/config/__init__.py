"""The run configuration: its keys, their values, and how YAML and overrides become one.

The only room that imports OmegaConf; refuses to know models, tasks and Ray.
"""
