"""Providers of machines: one module each, all of one shape; `processes` is the reference. The protocol is `machines.provider`.

It knows nothing of runs, ledgers and policies. Imports `machines`, `kubernetes` and `base`.
"""
