"""A run from its configuration to committed records: driver, dispatch loop, worker, judging.

Knows the order of things and what to do when one fails; refuses to know Ray, torch and statistics.
"""
