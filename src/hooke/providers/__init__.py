"""Who rents machines: one file a provider, all alike; `processes` is the reference, `provider` the protocol.

It knows nothing of runs, ledgers and policies. Imports `base`.
"""
