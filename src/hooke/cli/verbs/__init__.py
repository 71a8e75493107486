"""One module a verb of `hooke`: it reads options, calls one use case and prints the result.

A verb knows nothing of another verb. Imports `cli` and every folder below it.
"""
