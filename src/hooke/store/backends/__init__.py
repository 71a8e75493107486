"""The backends of a store, one file each; `folder` is the reference.

A backend knows nothing of objects and entries. Imports `store` and `base`.
"""
