"""The processes that run attempts on one machine: worker loop, ranks of gangs, pool, fork server, worker, and its output.

The local engine and the hosts of remote engines use it. It knows nothing of either. Imports `engines.gang`, `pipeline` and below.
"""
