"""What every room stands on: errors, tasks and samples, content hashes, addresses, text made harmless.

Knows no other room.
"""
