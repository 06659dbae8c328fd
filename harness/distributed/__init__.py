"""Where the work runs: replicas, the dispatch loop, retries, local and cluster start.

The only room that imports Ray; refuses to know statistics and the text of prompts.
"""
