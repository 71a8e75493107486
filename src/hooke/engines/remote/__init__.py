"""What Dask and Ray share: the cluster engine, its queue of attempts, gangs over several hosts, the handshake, failure detection and log sync.

It knows nothing of either library: each brings a transport. Imports `engines.worker` and what that imports.
"""
