"""Where a store's bytes lie: one file a backend, all alike; `folder` is the reference.

A backend knows nothing of objects and entries. Imports `store` and `base`.
"""
