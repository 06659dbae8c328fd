"""The engine `vllm`: a model in this process by vLLM, with its prefix cache.

Knows vLLM; refuses to know text, tasks and Ray. What a checkpoint's files say is read as the engine `local` reads it.
"""
