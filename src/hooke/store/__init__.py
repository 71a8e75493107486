"""Content-addressed results: one object format, entries by recipe key, claims, eviction; one file a backend.

It knows nothing of tasks and of how a key is made. Imports `base`.
"""
