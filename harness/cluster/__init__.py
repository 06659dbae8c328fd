"""Ray: starting or joining it, replicas as actors, shards as blocks of a Ray Dataset, what nodes say of themselves.

The only room that imports Ray; refuses to know statistics and the text of prompts.
"""
