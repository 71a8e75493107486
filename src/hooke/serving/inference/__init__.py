"""The Open Inference Protocol V2 over REST: tensors in and out, and a service's methods as models.

It knows nothing of processes and proxies. Imports `serving` and `base`.
"""
