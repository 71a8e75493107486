"""Content-addressed results: one object format, recipe entries, claims, eviction, and the places they lie in.

Knows bytes, codecs and backends; knows nothing of tasks or runs beyond the names written into an entry.
Imports `hooke.base` only.
"""
