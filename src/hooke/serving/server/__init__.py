"""The HTTP server of a replica: connections and their limits, and one process's life from its socket to the last answer.

It knows nothing of models. Imports `serving` and `base`; uvloop is imported here and nowhere else in `serving`.
"""
