"""What Dask and Ray share: attempts over several hosts, gangs over them, the handshake, silence, and logs brought home.

It knows nothing of either library: those bring a transport. Imports `engines.worker` and what that imports.
"""
