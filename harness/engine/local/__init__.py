"""The engine of this project: a transformers model in this process, scored over the prefix tree of its prompts.

The only room that imports torch; refuses to know text, tasks and Ray.
"""
