"""The scorer: token ids in, label log-probabilities out.

Knows models, devices and prefix trees; refuses to know text, tasks and Ray.
"""
