"""The processes that run attempts on one machine: pool, fork server, worker, its output and its end.

Used by the local engine and by hosts of remote ones. It knows nothing of either. Imports `pipeline` and below.
"""
