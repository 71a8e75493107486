"""Providers of machines: one module each, all of one shape; `processes` is the reference, `provider` the protocol.

It knows nothing of runs, ledgers and policies. Imports `base`.
"""
