"""The engine `server`: a model behind an OpenAI-compatible address.

Knows HTTP, the dialects of servers and tokenizers; refuses to know torch, tasks and Ray.
"""
