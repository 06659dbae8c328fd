"""From samples to prompts: templates, demonstrations, rendering, tokenising, boundary audit.

Knows text and token ids; refuses to know models and scores.
"""
