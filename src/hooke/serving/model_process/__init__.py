"""A model in a process of its own: a crash, or code that holds the interpreter, affects that process alone.

It knows nothing of HTTP. Imports `serving`, `processes` and `base`.
"""
