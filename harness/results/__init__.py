"""Records and run directories.

Knows parquet and storage; refuses to know Ray and torch. Parts are the only truth: tables and
reports are views of them.
"""
