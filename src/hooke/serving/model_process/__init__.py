"""A model in a process of its own: what crashes or holds the interpreter there harms that process alone.

It knows nothing of HTTP. Imports `serving`, `processes` and `base`.
"""
